//! The way to a server, which can be cut, stalled, or let nothing back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Connections end at once, and so does every new one.
    Cut,
    /// Connections stay, and nothing passes.
    Stalled,
    /// Requests pass, answers do not.
    NoReply,
}

/// A port that leads to a server.
pub(crate) struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Proxy {
    /// A way to the server at this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let server: SocketAddr = url.rsplit('/').next().unwrap().parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::Open);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(connection(client, server, ways.clone()));
            }
        });
        Self {
            address,
            way,
            connections,
            _tasks: tasks,
        }
    }

    /// Two ways to the server at this URL, of which the store that `open` makes takes the first.
    pub(crate) async fn pair<S>(url: &str, open: impl AsyncFn(&str) -> S) -> (Self, Self, S) {
        let (a, b) = (Self::to(url).await, Self::to(url).await);
        let store = open(&format!("{},{}", a.url(), b.url())).await;
        let (a_is_used, b_is_used) = (a.connections() > 0, b.connections() > 0);
        assert!(a_is_used != b_is_used, "one server is asked at a time");
        if a_is_used { (a, b, store) } else { (b, a, store) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections there have been.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn connection(client: TcpStream, server: SocketAddr, mut ways: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut request, mut answer) = ([0; 8192], [0; 8192]);
    loop {
        let way = *ways.borrow_and_update();
        if way == Way::Cut {
            return;
        }
        tokio::select! {
            _ = ways.changed() => {}
            read = from_client.read(&mut request), if matches!(way, Way::Open | Way::NoReply) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => if to_server.write_all(&request[..length]).await.is_err() { return },
            },
            read = from_server.read(&mut answer), if way == Way::Open => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => if to_client.write_all(&answer[..length]).await.is_err() { return },
            },
        }
    }
}
