//! The one thread that writes the log, and may be stalled for ever.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::Level;

use super::LogFormat;
use super::line::Line;
use super::queue::Queue;

/// Starts the thread. It ends with the process.
pub(super) fn spawn(queue: Arc<Queue>, file: File, format: LogFormat) -> io::Result<()> {
    let run = move || {
        drain(
            &queue,
            Sink {
                outlet: file,
                torn: false,
            },
            format,
        )
    };
    thread::Builder::new().name("log".to_owned()).spawn(run).map(drop)
}

fn drain<O: Outlet>(queue: &Queue, mut sink: Sink<O>, format: LogFormat) {
    let mut untold = 0;
    loop {
        let work = queue.next();
        untold += work.dropped_before;
        if untold > 0 && sink.write_line(&lost_notice(format, untold)).is_ok() {
            untold = 0;
        }
        let Some(line) = work.line else { continue };
        // The notice failed just now: so would the line.
        if untold > 0 || sink.write_line(&line).is_err() {
            queue.count_dropped();
            untold += 1;
        }
    }
}

fn lost_notice(format: LogFormat, lines: u64) -> String {
    let mut line = Line::new(format, Level::WARN);
    line.message("log lines were lost here: the reader was stalled or gone, or the disk full");
    line.number("lines", lines);
    line.finish()
}

/// Where lines go.
trait Outlet: Write {
    /// Waits until a write that would have blocked is worth another try.
    fn wait_until_writable(&self) -> io::Result<()>;
}

impl Outlet for File {
    fn wait_until_writable(&self) -> io::Result<()> {
        // Without end, as the write itself would on a descriptor that blocks.
        match poll(
            &mut [PollFd::new(self.as_fd(), PollFlags::POLLOUT)],
            PollTimeout::NONE,
        ) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Writes whole lines: one `write` each, unless the kernel takes it in pieces.
struct Sink<O> {
    outlet: O,
    /// A line broke off: end it before the next.
    torn: bool,
}

impl<O: Outlet> Sink<O> {
    fn write_line(&mut self, line: &str) -> io::Result<()> {
        if self.torn {
            self.write_bytes(b"\n")?;
            self.torn = false;
        }
        self.write_bytes(line.as_bytes())
    }

    fn write_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let whole = bytes.len();
        while !bytes.is_empty() {
            let error = match self.outlet.write(bytes) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // Standard error is shared: whoever else has it may have made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match self.outlet.wait_until_writable() {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Err(error) => error,
            };
            self.torn |= bytes.len() < whole;
            return Err(error);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes at a call; an empty list is a full disk.
    struct Disk {
        takes: Vec<usize>,
        content: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.takes.is_empty() {
                return Err(ErrorKind::StorageFull.into());
            }
            let taken = self.takes.remove(0).min(bytes.len());
            self.content.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Outlet for Disk {
        fn wait_until_writable(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_taken_in_pieces_arrives_whole() {
        let mut sink = Sink {
            outlet: Disk {
                takes: vec![2, 1, 9],
                content: Vec::new(),
            },
            torn: false,
        };
        sink.write_line("abcdef\n").unwrap();
        assert_eq!(sink.outlet.content, b"abcdef\n");
    }

    #[test]
    fn a_line_that_broke_off_is_ended_before_the_next_one() {
        let mut sink = Sink {
            outlet: Disk {
                takes: vec![3],
                content: Vec::new(),
            },
            torn: false,
        };
        assert_eq!(
            sink.write_line("abcdef\n").unwrap_err().kind(),
            ErrorKind::StorageFull
        );
        sink.write_line("lost\n").unwrap_err();
        sink.outlet.takes = vec![100; 4];
        sink.write_line("next\n").unwrap();
        sink.write_line("and next\n").unwrap();
        assert_eq!(
            String::from_utf8_lossy(&sink.outlet.content),
            "abc\nnext\nand next\n"
        );
    }
}
