//! The servers of the cluster, of which one is asked at a time. The client library promises nothing
//! beyond one connection: which server is asked, how long, and whether again is decided here.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::endpoint::Endpoint;
use crate::failure::{Failure, Failures, Kind};
use crate::http;
use crate::options::Password;
use crate::random::{self, jittered};
use crate::tls::{Tls, TlsFiles};

/// How long a connection may take, handshake and all.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// How long one server has for one request: longer than an election takes.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(4);

/// How long a request has on all servers together. Whoever asks a store gives it ten seconds.
const OVERALL_DEADLINE: Duration = Duration::from_secs(9);

/// How long it takes at most, in a cluster that is well, until there is a leader again, and how often
/// the servers are asked meanwhile.
pub(crate) const ELECTED_WITHIN: Duration = Duration::from_secs(5);
const ELECTION_PAUSE: Duration = Duration::from_millis(200);

/// How often a quiet connection is tried. etcd ends those that do so more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);

/// How long the answer to that may take.
const PING_DEADLINE: Duration = Duration::from_secs(3);

/// A connection that is found dead has been heard from no longer ago than this.
pub(crate) const NOTICED_WITHIN: Duration = PING_EVERY.saturating_add(PING_DEADLINE);

/// The servers, and how to speak to them.
pub(crate) struct Servers {
    // At least one.
    endpoints: Vec<Arc<Endpoint>>,
    login: Option<(String, Password)>,
    files: Option<TlsFiles>,
    state: Mutex<State>,
}

struct State {
    tls: Option<Arc<Tls>>,
    /// The server that is asked first.
    current: usize,
    /// By server. A connection is made when it is first needed, and given up when a request on it
    /// fails.
    connections: Vec<Option<Connection>>,
    /// Differs from one connection to the next.
    serial: u64,
}

#[derive(Clone)]
struct Connection {
    serial: u64,
    client: Client,
    /// Whether anything was ever answered on it.
    proven: Arc<AtomicBool>,
}

/// A connection to one of the servers.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) client: Client,
    pub(crate) tls: Option<Arc<Tls>>,
    index: usize,
    serial: u64,
    proven: Arc<AtomicBool>,
}

impl Servers {
    /// `None`, when there is not a single one. Blocks while files are read.
    pub(crate) fn new(
        endpoints: Vec<Endpoint>,
        login: Option<(String, Password)>,
        files: Option<TlsFiles>,
    ) -> Result<Option<Self>, String> {
        if endpoints.is_empty() {
            return Ok(None);
        }
        let tls = files.as_ref().map(TlsFiles::read).transpose()?.map(Arc::new);
        let connections = endpoints.iter().map(|_| None).collect();
        // Hosts have the same list, and not all of them ought to ask the same server.
        let current = random::number() % endpoints.len() as u64;
        Ok(Some(Self {
            endpoints: endpoints.into_iter().map(Arc::new).collect(),
            login,
            files,
            state: Mutex::new(State {
                tls,
                current: usize::try_from(current).unwrap_or(0),
                connections,
                serial: 0,
            }),
        }))
    }

    /// Reads the certificates again, for the connections that are made from now on.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let tls = self.files.as_ref().map(TlsFiles::read).transpose()?.map(Arc::new);
        let mut state = self.state();
        state.tls = tls;
        state.connections.fill(None);
        Ok(())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// Those addresses that are known without asking anybody.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.endpoints
            .iter()
            .filter_map(|endpoint| endpoint.address())
            .collect()
    }

    /// A connection to the server whose turn it is. Where there can be none it is the next one's turn.
    pub(crate) async fn connect(&self) -> Result<Server, (Arc<Endpoint>, Failure)> {
        let (index, tls, standing) = {
            let state = self.state();
            let index = state.current;
            (index, state.tls.clone(), state.connections[index].clone())
        };
        let endpoint = Arc::clone(&self.endpoints[index]);
        let connection = match standing {
            Some(connection) => connection,
            None => match self.open(&endpoint, tls.as_deref()).await {
                Ok(client) => self.keep(index, client, tls.as_ref()),
                Err(failure) => {
                    self.turn_from(index);
                    return Err((endpoint, failure));
                }
            },
        };
        Ok(Server {
            index,
            serial: connection.serial,
            client: connection.client,
            proven: connection.proven,
            endpoint,
            tls,
        })
    }

    /// Draws the conclusions of a failure: another server's turn, another connection or log-in.
    pub(crate) fn give_up(&self, server: &Server, failure: &Failure) {
        if failure.is_of_one_server() {
            self.turn_from(server.index);
        }
        let slot = &mut self.state().connections[server.index];
        let is_this = |connection: &mut Connection| connection.serial == server.serial;
        if failure.spoils_connection() {
            slot.take_if(is_this);
        }
    }

    /// Asks one server after another, each once and the first one twice, as long as they do not
    /// answer; and all of them again while they have no leader. What is asked must be such that it may
    /// be done twice.
    pub(crate) async fn ask<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let start = Instant::now();
        let mut failures = Failures::default();
        let mut attempts = 0;
        loop {
            let attempt = async {
                let server = self.connect().await?;
                let answer = server.ask(&request).await;
                answer.map_err(|failure| {
                    self.give_up(&server, &failure);
                    (Arc::clone(&server.endpoint), failure)
                })
            };
            match timeout_at(start + OVERALL_DEADLINE, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err((endpoint, failure))) if failure.is_of_one_server() => {
                    failures.note(&endpoint, failure);
                }
                Ok(Err((_, failure))) => return Err(failure),
                Err(_) if failures.is_empty() => return Err(Failure::late(OVERALL_DEADLINE)),
                Err(_) => break,
            }
            attempts += 1;
            if attempts > self.len() {
                if !failures.are_of_an_election() || start.elapsed() > ELECTED_WITHIN {
                    break;
                }
                sleep(jittered(ELECTION_PAUSE)).await;
            }
        }
        Err(failures.summary())
    }

    async fn open(&self, endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Client, Failure> {
        match self.try_open(endpoint, tls, self.login.as_ref()).await {
            // As with flannel, users that nobody asks for do no harm.
            Err(failure) if failure.kind == Kind::NoUsers => self.try_open(endpoint, tls, None).await,
            opened => opened,
        }
    }

    async fn try_open(
        &self,
        endpoint: &Endpoint,
        tls: Option<&Tls>,
        login: Option<&(String, Password)>,
    ) -> Result<Client, Failure> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_keep_alive(PING_EVERY, PING_DEADLINE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = tls.filter(|_| endpoint.tls) {
            options = options.with_tls(tls.options.clone());
        }
        if let Some((name, password)) = login {
            options = options.with_user(name, password.reveal());
        }
        match timeout(REQUEST_DEADLINE, Client::connect([&endpoint.url], Some(options))).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(explain(endpoint, tls, &error).await),
            Err(_) => Err(Failure::late(REQUEST_DEADLINE)),
        }
    }

    /// Keeps a connection for the requests to come, unless the certificates are others by now.
    fn keep(&self, index: usize, client: Client, tls: Option<&Arc<Tls>>) -> Connection {
        let mut state = self.state();
        state.serial += 1;
        let connection = Connection {
            serial: state.serial,
            client,
            proven: Arc::default(),
        };
        if state.tls.as_ref().map(Arc::as_ptr) == tls.map(Arc::as_ptr) {
            state.connections[index] = Some(connection.clone());
        }
        connection
    }

    fn turn_from(&self, index: usize) {
        let mut state = self.state();
        if state.current == index {
            state.current = (index + 1) % self.len();
        }
    }

    /// Nothing panics while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Asks this server, once.
    pub(crate) async fn ask<T, F>(&self, request: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        match timeout(REQUEST_DEADLINE, request(self.client.clone())).await {
            Ok(Ok(answer)) => {
                self.proven.store(true, Ordering::Relaxed);
                Ok(answer)
            }
            Ok(Err(error)) if self.proven.load(Ordering::Relaxed) => Err(self.failure(&error)),
            Ok(Err(error)) => Err(explain(&self.endpoint, self.tls.as_deref(), &error).await),
            Err(_) => Err(Failure::late(REQUEST_DEADLINE)),
        }
    }

    /// What an error of this server's means.
    pub(crate) fn failure(&self, error: &Error) -> Failure {
        Failure::of(error, &self.endpoint, self.tls.as_deref())
    }
}

/// Why nothing was ever answered on a connection.
async fn explain(endpoint: &Endpoint, tls: Option<&Tls>, error: &Error) -> Failure {
    let failure = Failure::of(error, endpoint, tls);
    if !failure.is_abrupt {
        return failure;
    }
    let refusal = match tls.filter(|_| endpoint.tls) {
        Some(tls) => http::refusal(endpoint, tls).await,
        None => None,
    };
    match refusal {
        Some(refusal) => Failure::untrusted(&refusal, endpoint, tls),
        None => failure.or_set_up_wrongly(endpoint),
    }
}

/// The servers as one name, for messages.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<&str> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.url.as_str())
            .collect();
        write!(f, "etcd at {}", urls.join(", "))
    }
}

/// Nothing that is secret.
impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn servers(count: u16) -> Servers {
        let endpoint = |port| Endpoint::parse(&format!("http://127.0.0.1:{port}"), false).unwrap();
        let endpoints = (1..=count).map(endpoint).collect();
        Servers::new(endpoints, None, None).unwrap().unwrap()
    }

    #[test]
    fn hosts_with_the_same_list_begin_at_different_servers() {
        let first: BTreeSet<usize> = (0..200).map(|_| servers(3).state().current).collect();
        assert_eq!(first, BTreeSet::from([0, 1, 2]));
    }

    #[test]
    fn a_turn_is_passed_on_once_however_many_requests_fail_on_one_server() {
        let servers = servers(3);
        let first = servers.state().current;
        for _ in 0..5 {
            servers.turn_from(first);
        }
        assert_eq!(servers.state().current, (first + 1) % 3);
    }
}
