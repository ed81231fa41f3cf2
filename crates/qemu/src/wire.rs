//! Lines over a socket, with a bound on every wait and on every length.

use crate::error::ErrorKind;
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A line longer than this is not one of QEMU's.
const LONGEST_LINE: usize = 4 << 20;

/// One end of a conversation in lines. After a failure nobody knows which answer comes next, so it refuses everything from then on.
#[derive(Debug)]
pub(crate) struct LineSocket {
    socket: UnixStream,
    buffer: Vec<u8>,
    consumed: usize,
    bound: Duration,
    lost: Option<String>,
}

impl LineSocket {
    /// Talks over `socket`; each answer may take `bound`.
    pub(crate) fn new(socket: UnixStream, bound: Duration) -> Self {
        Self { socket, buffer: Vec::new(), consumed: 0, bound, lost: None }
    }

    /// Sends `lines` in one piece. `what` names the request in errors.
    pub(crate) fn send(&mut self, lines: &[u8], what: &dyn fmt::Display) -> Result<(), ErrorKind> {
        self.usable()?;
        let sent = self
            .socket
            .set_write_timeout(Some(self.bound))
            .and_then(|()| self.socket.write_all(lines));
        sent.map_err(|error| self.lose(error, what))
    }

    /// When an answer that is asked for now must be there.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.bound
    }

    /// The next line, without its end.
    pub(crate) fn line(
        &mut self,
        deadline: Instant,
        what: &dyn fmt::Display,
    ) -> Result<String, ErrorKind> {
        self.usable()?;
        let mut searched = self.consumed;
        loop {
            if let Some(length) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                return Ok(self.take_line(searched + length));
            }
            searched = self.buffer.len();
            if searched - self.consumed > LONGEST_LINE {
                let answer = String::from_utf8_lossy(&self.buffer[self.consumed..][..80]);
                let kind = ErrorKind::Malformed { what: what.to_string(), answer: answer.into() };
                return Err(self.poison(kind));
            }
            self.fill(deadline).map_err(|error| self.lose(error, what))?;
        }
    }

    /// Remembers `kind` as the reason why nothing more can be said, and returns it.
    pub(crate) fn poison(&mut self, kind: ErrorKind) -> ErrorKind {
        self.lost = Some(kind.to_string());
        kind
    }

    fn usable(&self) -> Result<(), ErrorKind> {
        match &self.lost {
            Some(first) => Err(ErrorKind::Lost { first: first.clone() }),
            None => Ok(()),
        }
    }

    fn take_line(&mut self, end: usize) -> String {
        let line = String::from_utf8_lossy(&self.buffer[self.consumed..end]);
        let line = line.trim_end_matches('\r').to_owned();
        self.consumed = end + 1;
        if self.consumed == self.buffer.len() {
            self.buffer.clear();
            self.consumed = 0;
        }
        line
    }

    fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        // A zero timeout would mean "for ever".
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        if deadline <= Instant::now() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.socket.set_read_timeout(Some(left))?;
        let mut chunk = [0; 4096];
        match self.socket.read(&mut chunk) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lose(&mut self, error: io::Error, what: &dyn fmt::Display) -> ErrorKind {
        let what = what.to_string();
        let kind = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ErrorKind::Timeout { what, after: self.bound }
            }
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => ErrorKind::Closed { what },
            _ => ErrorKind::Io { what: "talking to QEMU", error },
        };
        self.poison(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().expect("socket pair");
        let mut lines = LineSocket::new(ours, Duration::from_secs(5));
        theirs.write_all(b"one\r\ntw").expect("room");
        assert_eq!(lines.line(lines.deadline(), &"t").expect("line"), "one");
        theirs.write_all(b"o\nthree\n").expect("room");
        assert_eq!(lines.line(lines.deadline(), &"t").expect("line"), "two");
        assert_eq!(lines.line(lines.deadline(), &"t").expect("line"), "three");
    }

    #[test]
    fn a_trickle_does_not_extend_the_bound() {
        let (ours, mut theirs) = UnixStream::pair().expect("socket pair");
        let mut lines = LineSocket::new(ours, Duration::from_millis(60));
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                std::thread::sleep(Duration::from_millis(10));
                if theirs.write_all(b"x").is_err() {
                    break;
                }
            }
        });
        let start = Instant::now();
        let error = lines.line(lines.deadline(), &"trickle").expect_err("no line ever ends");
        assert!(matches!(error, ErrorKind::Timeout { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
        let again = lines.line(lines.deadline(), &"later").expect_err("out of step");
        assert!(again.to_string().contains("trickle"), "{again}");
        drop(lines);
        writer.join().expect("writer");
    }
}
