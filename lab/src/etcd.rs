//! A real etcd: single members on loopback or in a namespace, and clusters of them.

mod cluster;
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

pub use cluster::EtcdCluster;
use process::Process;

use crate::host::tail;
use crate::program::{command, lock, run};
use crate::{Certificate, LabError, Namespace, wait_until};

/// etcd's own ports, free in a namespace of one's own.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// Loopback ports are taken from here: below the range from which Linux takes the ports of outgoing connections, so that
/// a member that is started again finds its own free.
const LOOPBACK_PORTS: std::ops::Range<u16> = 20_000..32_000;
/// New ports are tried this often when others take them first.
const ATTEMPTS: usize = 5;
/// Time for a member, or all of a cluster, to answer.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// Time for a member to end after SIGTERM: etcd waits for its clients' streams.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
const KILL_DEADLINE: Duration = Duration::from_secs(5);
const ETCDCTL_DEADLINE: Duration = Duration::from_secs(20);
/// The line of its log that says that a member serves.
const SERVES: &str = "serving client traffic";
/// Lines of the log that an error quotes.
const QUOTED_LINES: usize = 15;

/// The TLS of a member, for its clients and, with the same certificate, among members.
#[derive(Clone, Debug)]
pub struct EtcdTls {
    /// The authority that must have signed the clients' and the other members' certificates.
    pub authority: PathBuf,
    /// The member's certificate, for server and client authentication: members dial each other.
    pub certificate: Certificate,
    /// Whether clients need a certificate (`--client-cert-auth`).
    pub client_cert_auth: bool,
}

/// What member to run.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The member's name in its cluster and of its directory.
    pub name: String,
    /// Where its directory goes, with its data and its logs.
    pub directory: PathBuf,
    /// The address it listens on.
    pub address: IpAddr,
    /// The port for clients. Without it: 2379 in a namespace, a free one elsewhere.
    pub client_port: Option<u16>,
    /// The port for members. Without it: 2380 in a namespace, a free one elsewhere.
    pub peer_port: Option<u16>,
    /// The members' names and peer URLs. Empty: a cluster of its own, or that of [`EtcdCluster::start`].
    pub initial_cluster: BTreeMap<String, String>,
    /// TLS, or plain text.
    pub tls: Option<EtcdTls>,
    /// Whether it serves API v2 as well (`--enable-v2`; etcd 3.4 and 3.5 have it).
    pub api_v2: bool,
    /// The namespace it runs in.
    pub namespace: Option<Namespace>,
    /// More arguments for etcd.
    pub arguments: Vec<String>,
}

impl EtcdOptions {
    /// A member in plain text on loopback.
    pub fn new(name: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            directory: directory.into(),
            address: Ipv4Addr::LOCALHOST.into(),
            client_port: None,
            peer_port: None,
            initial_cluster: BTreeMap::new(),
            tls: None,
            api_v2: false,
            namespace: None,
            arguments: Vec::new(),
        }
    }

    /// In a namespace, on this address of it.
    #[must_use]
    pub fn within(mut self, namespace: impl AsRef<Namespace>, address: impl Into<IpAddr>) -> Self {
        self.namespace = Some(namespace.as_ref().clone());
        self.address = address.into();
        self
    }

    /// With TLS.
    #[must_use]
    pub fn tls(mut self, tls: EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// With API v2.
    #[must_use]
    pub fn api_v2(mut self) -> Self {
        self.api_v2 = true;
        self
    }

    /// Fixes the ports that were left open.
    fn with_ports(mut self) -> Result<Self, LabError> {
        let (client, peer) = match self.namespace {
            Some(_) => (CLIENT_PORT, PEER_PORT),
            None => (free_port(self.address)?, free_port(self.address)?),
        };
        self.client_port.get_or_insert(client);
        self.peer_port.get_or_insert(peer);
        Ok(self)
    }

    fn url(&self, port: Option<u16>) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let address = SocketAddr::new(self.address, port.unwrap_or_default());
        format!("{scheme}://{address}")
    }
}

/// One etcd member. It can be stopped and started again on the same data and ports. Dropping it kills it, and so does
/// the end of this process, however it ends.
#[derive(Debug)]
pub struct Etcd {
    options: EtcdOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    runs: usize,
    token: usize,
    /// `name:password` of the user whom etcdctl is.
    user: Option<String>,
}

impl Etcd {
    /// Starts a member and waits until it answers, which a member of a larger cluster does once most members run.
    ///
    /// # Errors
    /// [`LabError::ProgramMissing`] without etcd or etcdctl; [`LabError::EtcdEnded`] or [`LabError::TimedOut`] with the
    /// end of its log.
    pub fn start(options: EtcdOptions) -> Result<Self, LabError> {
        let mut attempt = 1;
        loop {
            let etcd = Self::launch(options.clone())?;
            match etcd.wait_ready(START_DEADLINE) {
                Err(error) if attempt < ATTEMPTS && error.says_address_in_use() => attempt += 1,
                outcome => return outcome.map(|()| etcd),
            }
        }
    }

    /// Starts a member without waiting for it.
    ///
    /// # Errors
    /// As [`Self::start`], as far as they show at once.
    pub fn launch(options: EtcdOptions) -> Result<Self, LabError> {
        let etcd = Self {
            options: options.with_ports()?,
            state: Mutex::default(),
        };
        etcd.launch_again()?;
        Ok(etcd)
    }

    /// Starts it again, after [`Self::stop`] or [`Self::kill`], on the same ports and data, and waits until it answers.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_again(&self) -> Result<(), LabError> {
        self.launch_again()?;
        self.wait_ready(START_DEADLINE)
    }

    /// As [`Self::start_again`], without waiting.
    ///
    /// # Errors
    /// As [`Self::launch`].
    pub fn launch_again(&self) -> Result<(), LabError> {
        let mut state = lock(&self.state);
        state.process = None;
        state.runs += 1;
        let log = self.directory().join(format!("{}.log", state.runs));
        fs::create_dir_all(self.directory()).map_err(|error| LabError::io("make", &log, error))?;
        let command = self.command_line(state.token);
        state.process = Some(Process::start(command, log)?);
        Ok(())
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`LabError::EtcdEnded`] as soon as it has ended, [`LabError::TimedOut`]; both with the end of its log.
    pub fn wait_ready(&self, within: Duration) -> Result<(), LabError> {
        let what = format!("etcd {} to answer", self.options.name);
        let serves = wait_until(within, &what, || {
            let status = self.ended();
            if self.log().contains(SERVES) {
                return Some(Ok(()));
            }
            status.map(|status| {
                Err(LabError::EtcdEnded {
                    name: self.options.name.clone(),
                    status,
                    log: tail(&self.log(), QUOTED_LINES),
                })
            })
        });
        let timed_out = |_| LabError::TimedOut {
            what: what.clone(),
            after: within,
            detail: format!("; its log ends:\n{}", tail(&self.log(), QUOTED_LINES)),
        };
        serves.map_err(timed_out)??;
        // It has said so; what remains is the instant until its listener accepts.
        wait_until(within, &what, || self.etcdctl(&["endpoint", "health"]).is_ok()).map_err(timed_out)
    }

    /// Ends it with SIGTERM, as a service manager does, and waits until it is gone.
    ///
    /// # Errors
    /// [`LabError::TimedOut`]; it still runs then.
    pub fn stop(&self) -> Result<(), LabError> {
        self.end(Signal::SIGTERM, STOP_DEADLINE)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// As [`Self::stop`].
    pub fn kill(&self) -> Result<(), LabError> {
        self.end(Signal::SIGKILL, KILL_DEADLINE)
    }

    /// Sends a signal, for example SIGSTOP and SIGCONT; to one that has ended, nothing.
    ///
    /// # Errors
    /// [`LabError::Io`] if the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let mut state = lock(&self.state);
        let Some(process) = &mut state.process else {
            return Ok(());
        };
        process.signal(signal).map_err(|source| LabError::Io {
            action: format!("send {signal} to etcd {}", self.options.name),
            source,
        })
    }

    /// Whether it runs, be it stopped by a signal.
    pub fn is_running(&self) -> bool {
        lock(&self.state)
            .process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut state = lock(&self.state);
        let process = state.process.as_mut()?;
        process.ended().is_none().then(|| process.child.id())
    }

    /// Removes its data; it must not run. Alone, it begins again at revision 1, under the same cluster id.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn wipe(&self) -> Result<(), LabError> {
        let data = self.data_directory();
        fs::remove_dir_all(&data).map_err(|error| LabError::io("remove", &data, error))
    }

    /// As [`Self::wipe`], but what starts then has another cluster id.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn wipe_into_a_new_cluster(&self) -> Result<(), LabError> {
        lock(&self.state).token += 1;
        self.wipe()
    }

    /// Demands user and password from now on: makes the user `root` with this password, whom [`Self::etcdctl`] is then.
    ///
    /// # Errors
    /// Those of etcdctl.
    pub fn enable_authentication(&self, password: &str) -> Result<(), LabError> {
        let root = format!("root:{password}");
        self.etcdctl(&["user", "add", &root])?;
        self.etcdctl(&["user", "grant-role", "root", "root"])?;
        self.etcdctl(&["auth", "enable"])?;
        lock(&self.state).user = Some(root);
        Ok(())
    }

    /// The URL for clients, for example `http://127.0.0.1:23790`.
    pub fn endpoint(&self) -> String {
        self.options.url(self.options.client_port)
    }

    /// The URL for members.
    pub fn peer_url(&self) -> String {
        self.options.url(self.options.peer_port)
    }

    /// What it was started with, the ports filled in.
    pub fn options(&self) -> &EtcdOptions {
        &self.options
    }

    /// Where its data lies, for example to bring an older state back.
    pub fn data_directory(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// What its present or last run wrote.
    pub fn log(&self) -> String {
        let runs = lock(&self.state).runs;
        fs::read(self.directory().join(format!("{runs}.log")))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Runs `etcdctl <arguments>` on this member in API v3, with its own certificate and without looking at the
    /// server's, and returns what it printed.
    ///
    /// # Errors
    /// [`LabError::Program`] with what etcdctl said.
    pub fn etcdctl(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.etcdctl_with_input(arguments, "")
    }

    /// As [`Self::etcdctl`] with this on its standard input, for example the operations of a `txn`.
    ///
    /// # Errors
    /// [`LabError::Program`] with what etcdctl said.
    pub fn etcdctl_with_input(&self, arguments: &[&str], input: &str) -> Result<String, LabError> {
        let mut words = vec!["etcdctl".to_owned(), format!("--endpoints={}", self.endpoint())];
        words.extend(["--dial-timeout=2s", "--command-timeout=5s"].map(str::to_owned));
        if let Some(EtcdTls { certificate, .. }) = &self.options.tls {
            words.push("--insecure-skip-tls-verify".into());
            words.push(format!("--cert={}", certificate.cert.display()));
            words.push(format!("--key={}", certificate.key.display()));
        }
        if let Some(user) = &lock(&self.state).user {
            words.push(format!("--user={user}"));
        }
        self.run_etcdctl("3", words, arguments, input)
    }

    /// Runs `etcdctl <arguments>` on this member in API v2, as old manuals have it.
    ///
    /// # Errors
    /// [`LabError::Program`] with what etcdctl said, for example that API v2 is off.
    pub fn etcdctl_v2(&self, arguments: &[&str]) -> Result<String, LabError> {
        let mut words = vec!["etcdctl".to_owned(), format!("--endpoints={}", self.endpoint())];
        if let Some(tls) = &self.options.tls {
            words.push(format!("--ca-file={}", tls.authority.display()));
            words.push(format!("--cert-file={}", tls.certificate.cert.display()));
            words.push(format!("--key-file={}", tls.certificate.key.display()));
        }
        self.run_etcdctl("2", words, arguments, "")
    }

    fn run_etcdctl(
        &self,
        api: &str,
        words: Vec<String>,
        arguments: &[&str],
        input: &str,
    ) -> Result<String, LabError> {
        let words: Vec<&str> = words
            .iter()
            .map(String::as_str)
            .chain(arguments.iter().copied())
            .collect();
        let mut command = self.in_namespace(&words);
        command.env("ETCDCTL_API", api);
        let output = run(command, input, ETCDCTL_DEADLINE)?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(said(&output.stdout));
        }
        Err(LabError::Program {
            line: format!("etcdctl {}", arguments.join(" ")),
            status: output.status,
            stderr: format!("{}{}", said(&output.stdout), said(&output.stderr))
                .trim()
                .to_owned(),
        })
    }

    fn command_line(&self, token: usize) -> Command {
        let EtcdOptions { name, tls, .. } = &self.options;
        let (client, peer) = (self.endpoint(), self.peer_url());
        let alone = BTreeMap::from([(name.clone(), peer.clone())]);
        let cluster = match &self.options.initial_cluster {
            given if given.is_empty() => &alone,
            given => given,
        };
        let members: Vec<String> = cluster
            .iter()
            .map(|(name, url)| format!("{name}={url}"))
            .collect();
        let mut words = vec![
            "etcd".to_owned(),
            format!("--name={name}"),
            format!("--data-dir={}", self.data_directory().display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", members.join(",")),
            format!("--initial-cluster-token=lab-{token}"),
            "--logger=zap".into(),
        ];
        if cluster.len() == 1 {
            // Nobody to agree with: no need to wait a second for somebody else to lead.
            words.extend(["--heartbeat-interval=20", "--election-timeout=200"].map(str::to_owned));
        }
        if self.options.api_v2 {
            words.push("--enable-v2=true".into());
        }
        if let Some(EtcdTls {
            authority,
            certificate: Certificate { cert, key },
            client_cert_auth,
        }) = tls
        {
            for role in ["", "peer-"] {
                words.push(format!("--{role}cert-file={}", cert.display()));
                words.push(format!("--{role}key-file={}", key.display()));
                words.push(format!("--{role}trusted-ca-file={}", authority.display()));
            }
            words.push("--peer-client-cert-auth=true".into());
            words.push(format!("--client-cert-auth={client_cert_auth}"));
        }
        words.extend(self.options.arguments.iter().cloned());
        self.in_namespace(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn in_namespace(&self, words: &[&str]) -> Command {
        match &self.options.namespace {
            Some(namespace) => namespace.command(words),
            None => command(words[0], &words[1..]),
        }
    }

    fn directory(&self) -> PathBuf {
        self.options.directory.join(&self.options.name)
    }

    fn ended(&self) -> Option<ExitStatus> {
        lock(&self.state).process.as_mut()?.ended()
    }

    fn end(&self, signal: Signal, within: Duration) -> Result<(), LabError> {
        self.signal(signal)?;
        let what = format!("etcd {} to end", self.options.name);
        wait_until(within, what, || !self.is_running())?;
        lock(&self.state).process = None;
        Ok(())
    }
}

/// A port of `address` that is free now; each call of this process gets another.
fn free_port(address: IpAddr) -> Result<u16, LabError> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = LOOPBACK_PORTS.end - LOOPBACK_PORTS.start;
    // Processes side by side begin at different places.
    let begin = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(count)).unwrap_or_default();
    let mut refused = None;
    for _ in 0..count {
        let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        match TcpListener::bind((address, LOOPBACK_PORTS.start + offset)) {
            Ok(_) => return Ok(LOOPBACK_PORTS.start + offset),
            Err(error) => refused = Some(error),
        }
    }
    Err(LabError::Io {
        action: format!("find a free port of {address}"),
        source: refused.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()),
    })
}

impl LabError {
    fn says_address_in_use(&self) -> bool {
        matches!(self, Self::EtcdEnded { log, .. } if log.contains("address already in use"))
    }
}
