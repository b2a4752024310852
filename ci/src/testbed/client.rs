//! A client of the first task: it types lines into a UDP socket and reads what comes back.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::process::POLL;

/// How long an answer is waited for before its line is sent again: UDP promises nothing.
const RESEND: Duration = Duration::from_millis(500);

/// A connected UDP socket.
#[derive(Debug)]
pub struct Client {
    socket: UdpSocket,
}

/// What the page of the task shows for one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pod that echoed.
    pub worker: String,
    /// The pod that transcoded.
    pub transcoder: String,
    /// The line, without its newline.
    pub line: String,
}

impl Answer {
    /// The answer in `text`; `None` unless it is exactly what the page shows.
    pub fn parse(text: &str) -> Option<Answer> {
        let rest = text.strip_prefix("Echo on ")?;
        let (worker, rest) = rest.split_once(": \n")?;
        let rest = rest.strip_prefix("Transcoded on ")?.strip_suffix('\n')?;
        let (transcoder, line) = rest.split_once(": ")?;
        let one_line = ![worker, transcoder, line].iter().any(|part| part.contains('\n'));
        one_line.then(|| Answer { worker: worker.into(), transcoder: transcoder.into(), line: line.into() })
    }

    /// The answers in a datagram: more than one, when a byte stream on the way has joined lines.
    pub fn parse_all(text: &str) -> Option<Vec<Answer>> {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        lines.chunks(2).map(|pair| Answer::parse(&pair.concat())).collect()
    }
}

impl Client {
    /// A client with a port of its own.
    pub fn new(gateway: SocketAddr) -> Result<Client> {
        let any: IpAddr = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(gateway).with_context(|| format!("cannot reach {gateway}"))?;
        Ok(Client { socket })
    }

    /// The socket, for what is not a line.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a line and its newline, once. That nobody listened to an earlier one is no error.
    pub fn send(&self, line: &str) -> Result<()> {
        match self.socket.send(format!("{line}\n").as_bytes()) {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error).context("cannot send"),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The next datagram; `None` when none comes in time.
    pub fn receive(&self, patience: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + patience;
        let mut datagram = [0; 65_536];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut datagram) {
                Ok(length) => return Ok(Some(String::from_utf8_lossy(&datagram[..length]).into_owned())),
                // The gateway has no socket yet, or none any more; it may come.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::thread::sleep(POLL.min(left)),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => (),
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
    }

    /// Sends a line, again and again until its answer comes, and answers with the text: two lines, in one datagram
    /// or in two. An error after `patience`, or when `interrupted` says so.
    pub fn ask(&self, line: &str, patience: Duration, interrupted: impl Fn() -> bool) -> Result<String> {
        let deadline = Instant::now() + patience;
        let mut text = String::new();
        while text.lines().count() < 2 || !text.ends_with('\n') {
            ensure!(!interrupted(), "interrupted");
            ensure!(Instant::now() < deadline, "no answer to \"{line}\" in {patience:?}, but {text:?}");
            if text.is_empty() {
                self.send(line)?;
            }
            text += &self.receive(RESEND)?.unwrap_or_default();
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_page_shows_and_nothing_else() {
        let answer = Answer::parse("Echo on w-1: \nTranscoded on t-1: This: is a test!\n").unwrap();
        assert_eq!((answer.worker.as_str(), answer.transcoder.as_str()), ("w-1", "t-1"));
        assert_eq!(answer.line, "This: is a test!");
        let two = Answer::parse_all("Echo on w: \nTranscoded on t: 1\nEcho on w: \nTranscoded on t: 2\n").unwrap();
        assert_eq!(two.iter().map(|answer| answer.line.as_str()).collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(Answer::parse_all("Echo on w: \nTranscoded on t: 1\nEcho on w: \n"), None);
        for text in [
            "",
            "Echo on w-1: \nTranscoded on t-1: x",
            "Echo on w-1:\nTranscoded on t-1: x\n",
            "Transcoded on t-1: x\n",
            "Echo on w-1: \nTranscoded on t-1: x\ny\n",
        ] {
            assert_eq!(Answer::parse(text), None, "{text:?}");
        }
    }
}
