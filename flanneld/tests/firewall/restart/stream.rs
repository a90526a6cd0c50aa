//! A connection from a pod to the outside, on which questions and answers go back and forth.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lab::{Host, Pod};

use crate::faults::SOON;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(2);

/// A connection with one question on its way at a time: each packet of it that is lost has to be sent again.
pub(super) struct Stream {
    go_on: Arc<AtomicBool>,
    asker: JoinHandle<Told>,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) answers: u32,
    /// The longest time from a question to its answer.
    pub(super) longest: Duration,
    /// What the kernel of the pod says about the connection (`ss -ti`).
    pub(super) about: String,
}

impl Stream {
    /// Connects from a pod to a port of a host, and begins to ask.
    pub(super) fn open(pod: &Pod, outside: &Host, to: IpAddr, port: u16) -> Self {
        let listener = outside.inside(|| TcpListener::bind((to, port))).unwrap().unwrap();
        thread::spawn(move || answer(&listener));
        let to = SocketAddr::new(to, port);
        let stream = pod
            .inside(|| TcpStream::connect_timeout(&to, SOON))
            .unwrap()
            .unwrap();
        let go_on = Arc::new(AtomicBool::new(true));
        let (pod, more) = ((**pod).clone(), Arc::clone(&go_on));
        let asker = thread::spawn(move || {
            let mut told = ask(stream, &more);
            let filter = format!("dport = :{port}");
            told.about = pod.exec(&["ss", "-tinH", "state", "all", &filter]).unwrap();
            told
        });
        Self { go_on, asker }
    }

    /// Stops asking.
    ///
    /// # Panics
    /// If the connection broke, stood still, or gave a wrong answer.
    #[track_caller]
    pub(super) fn stop(self) -> Told {
        self.go_on.store(false, Ordering::Relaxed);
        self.asker.join().unwrap()
    }
}

fn answer(listener: &TcpListener) {
    let Ok((mut stream, _)) = listener.accept() else {
        return;
    };
    let mut question = [0; 4];
    while stream.read_exact(&mut question).is_ok() && stream.write_all(&question).is_ok() {}
}

fn ask(mut stream: TcpStream, go_on: &AtomicBool) -> Told {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut told = Told {
        answers: 0,
        longest: Duration::ZERO,
        about: String::new(),
    };
    while go_on.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let question = told.answers.to_be_bytes();
        stream.write_all(&question).unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, question, "the answers are not in order");
        told.longest = told.longest.max(begin.elapsed());
        told.answers += 1;
        thread::sleep(PAUSE);
    }
    told
}
