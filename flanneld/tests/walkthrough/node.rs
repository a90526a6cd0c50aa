//! One node: `opt/flannel` as the guides lay it out, and its supervisord.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lab::{Certificate, Host, Lab, LabError, wait_until};

use crate::cluster::{SOON, address};

/// The version of the first day, and that of the upgrade.
const FIRST: &str = "flannel-v0.1.0";
pub(crate) const SECOND: &str = "flannel-v0.2.0";
/// What health is asked on.
const HEALTHZ_PORT: u16 = 2401;
/// Debug builds are large: linked where they can be, copied where not.
const DAEMON: &str = env!("CARGO_BIN_EXE_flanneld");

/// The shell that runs the start script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shell {
    /// Ignores SIGQUIT, so that supervisord kills it after `stopwaitsecs`.
    Bash,
    /// Dies of SIGQUIT at once.
    Dash,
}

impl Shell {
    fn path(self) -> &'static str {
        match self {
            Self::Bash => "/bin/bash",
            Self::Dash => "/bin/dash",
        }
    }
}

/// The files of one node. Where it runs is told with each call.
pub(crate) struct Node {
    directory: PathBuf,
    program: String,
}

impl Node {
    /// Unpacks the tarball, and writes start script, `subnet.env` and supervisord's config.
    pub(crate) fn set_up(lab: &Lab, host: &Host, number: u8, shell: Shell, endpoints: &str) -> Self {
        let node = Self {
            directory: lab.directory().join(host.label()),
            program: format!("flanneld-7-{number}"),
        };
        node.unpack(FIRST);
        symlink(FIRST, node.opt()).unwrap();
        fs::create_dir(node.opt().join("certs")).unwrap();
        let script = node.opt().join("flanneld.sh");
        fs::write(&script, start_script(host, shell, endpoints)).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        // The bridge's address, which docker0 has: once as flannel writes it, once with the comment of flannel's own docs.
        let comment = if shell == Shell::Bash {
            ""
        } else {
            " # the subnet of this node"
        };
        let subnet_env = format!(
            "FLANNEL_NETWORK=172.7.0.0/16\nFLANNEL_SUBNET=172.7.{number}.1/24{comment}\n\
             FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n"
        );
        fs::write(node.opt().join("subnet.env"), subnet_env).unwrap();
        fs::create_dir_all(node.directory.join("logs")).unwrap();
        node.write_supervisor_config();
        node
    }

    /// Puts the certificates where the start script looks for them.
    pub(crate) fn bring_certificates(&self, authority: &Path, client: &Certificate) {
        let certs = self.opt().join("certs");
        for (from, to) in [
            (authority, "ca.pem"),
            (&*client.cert, "client.pem"),
            (&*client.key, "client-key.pem"),
        ] {
            fs::copy(from, certs.join(to)).unwrap();
        }
    }

    /// The settings of the guides. The state directory is the lab's instead of /var/lib/flannel.
    fn write_supervisor_config(&self) {
        let (directory, program) = (self.directory.display(), &self.program);
        let opt = self.opt();
        let state = format!("FLANNELD_STATE_DIR=\"{directory}/state\"");
        let config = format!(
            "[unix_http_server]\nfile={directory}/supervisor.sock\n\
             [supervisord]\nlogfile={directory}/logs/supervisord.log\npidfile={directory}/supervisord.pid\n\
             childlogdir={directory}/logs\n\
             [rpcinterface:supervisor]\n\
             supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
             [supervisorctl]\nserverurl=unix://{directory}/supervisor.sock\n\
             [program:{program}]\ncommand={opt}/flanneld.sh\ndirectory={opt}\nautostart=true\n\
             autorestart=true\nstartsecs=3\nstartretries=3\nexitcodes=0,2\nstopsignal=QUIT\nstopwaitsecs=3\n\
             user=root\nredirect_stderr=true\nstdout_logfile={log}\nenvironment={state}\n",
            opt = opt.display(),
            log = self.log_path().display(),
        );
        fs::write(self.config(), config).unwrap();
    }

    /// Starts supervisord, which starts the daemon.
    pub(crate) fn start_supervisor(&self, host: &Host) {
        host.exec(&["supervisord", "-c", self.config().to_str().unwrap()])
            .unwrap();
    }

    /// `supervisorctl <action> <program>`.
    pub(crate) fn supervisorctl(&self, host: &Host, action: &str) -> Result<String, LabError> {
        let config = self.config();
        host.exec(&[
            "supervisorctl",
            "-c",
            config.to_str().unwrap(),
            action,
            &self.program,
        ])
    }

    /// supervisord's own process id.
    pub(crate) fn supervisor_pid(&self) -> u32 {
        let pid = fs::read_to_string(self.directory.join("supervisord.pid")).unwrap();
        pid.trim().parse().unwrap()
    }

    /// Waits until supervisord calls it RUNNING: it has run for three seconds.
    pub(crate) fn wait_until_running(&self, host: &Host) {
        let mut said = String::new();
        let running = wait_until(SOON, "RUNNING", || {
            // Any other state is an exit code of supervisorctl's, too.
            said = self
                .supervisorctl(host, "status")
                .unwrap_or_else(|error| error.to_string());
            said.contains("RUNNING")
        });
        assert!(running.is_ok(), "{said}\n{}", self.log());
    }

    /// Unpacks another version beside the running one, with what it needs, but without `subnet.env`, and points the
    /// symlink at it.
    pub(crate) fn upgrade(&self) {
        let old = self.opt().canonicalize().unwrap();
        let new = self.unpack(SECOND);
        fs::create_dir(new.join("certs")).unwrap();
        for file in [
            "flanneld.sh",
            "certs/ca.pem",
            "certs/client.pem",
            "certs/client-key.pem",
        ] {
            fs::copy(old.join(file), new.join(file)).unwrap();
        }
        // `ln -sfn` by rename: there is no moment without it.
        let next = self.directory.join("opt/flannel.next");
        symlink(SECOND, &next).unwrap();
        fs::rename(next, self.opt()).unwrap();
    }

    /// The daemons that run in this host's namespace: process ids and programs.
    pub(crate) fn daemons(&self, host: &Host) -> Vec<(u32, PathBuf)> {
        let pids = host.exec(&["ip", "netns", "pids", host.name()]).unwrap();
        pids.lines()
            .filter_map(|pid| {
                let pid = pid.trim().parse().ok()?;
                let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
                (program.file_name()? == "flanneld").then_some((pid, program))
            })
            .collect()
    }

    /// The one daemon, as soon as there is exactly one.
    pub(crate) fn wait_for_one_daemon(&self, host: &Host) -> (u32, PathBuf) {
        let mut daemons = Vec::new();
        let one = wait_until(SOON, "exactly one daemon", || {
            daemons = self.daemons(host);
            daemons.len() == 1
        });
        assert!(one.is_ok(), "{daemons:?} run\n{}", self.log());
        daemons.remove(0)
    }

    /// The scripts that run in this host's namespace.
    pub(crate) fn scripts(&self, host: &Host) -> Vec<u32> {
        let pids = host.exec(&["ip", "netns", "pids", host.name()]).unwrap();
        pids.lines()
            .filter_map(|pid| pid.trim().parse().ok())
            .filter(|pid| {
                fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|line| line.contains("flanneld.sh"))
            })
            .collect()
    }

    /// What the health port answers: the status and the rest, head and body.
    pub(crate) fn get(&self, host: &Host, path: &str) -> Result<(u16, String), LabError> {
        let request = format!(
            r"exec 3<>/dev/tcp/{}/{HEALTHZ_PORT} && printf 'GET {path} HTTP/1.0\r\n\r\n' >&3 && cat <&3",
            address(host)
        );
        let answer = host.exec(&["bash", "-c", &request])?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.unwrap_or_default(), answer))
    }

    /// Waits until the daemon says that all is well.
    pub(crate) fn wait_until_ready(&self, host: &Host) {
        let mut said = None;
        let ready = wait_until(SOON, "readiness", || {
            said = self.get(host, "/readyz").ok();
            said.as_ref()
                .is_some_and(|(status, said)| *status == 200 && said.trim_end().ends_with("\nready"))
        });
        assert!(ready.is_ok(), "{}: {said:?}\n{}", host.label(), self.log());
    }

    /// What supervisord logged of the daemon.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// `subnet.env` of the version that the symlink points at.
    pub(crate) fn subnet_env(&self) -> String {
        fs::read_to_string(self.opt().join("subnet.env")).unwrap_or_default()
    }

    /// The symlink.
    pub(crate) fn opt(&self) -> PathBuf {
        self.directory.join("opt/flannel")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("supervisord.conf")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("logs/flanneld.log")
    }

    fn unpack(&self, version: &str) -> PathBuf {
        let to = self.directory.join("opt").join(version);
        fs::create_dir_all(&to).unwrap();
        let daemon = to.join("flanneld");
        if fs::hard_link(DAEMON, &daemon).is_err() {
            fs::copy(DAEMON, &daemon).unwrap();
        }
        to
    }
}

/// Word for word as the guides have it, without `exec`.
fn start_script(host: &Host, shell: Shell, endpoints: &str) -> String {
    format!(
        "#!{}\n./flanneld \\\n  --public-ip={} \\\n  --etcd-endpoints={endpoints} \\\n  \
         --etcd-cafile=./certs/ca.pem \\\n  --etcd-certfile=./certs/client.pem \\\n  \
         --etcd-keyfile=./certs/client-key.pem \\\n  --iface=eth1 \\\n  --subnet-file=./subnet.env \\\n  \
         --healthz-port={HEALTHZ_PORT}\n",
        shell.path(),
        address(host)
    )
}

/// A signal to a process of this lab's.
pub(crate) fn signal(host: &Host, signal: &str, pid: u32) {
    host.exec(&["kill", &format!("-{signal}"), &pid.to_string()])
        .unwrap();
}

/// Whether a process runs; one that has ended and that nobody has waited for yet does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// Waits until a process is gone.
pub(crate) fn wait_until_gone(pid: u32) {
    wait_until(
        Duration::from_secs(5),
        format!("the end of process {pid}"),
        || !runs(pid),
    )
    .unwrap();
}
