//! The two servers of the first task: the transcoder on a Unix stream socket, the worker on UDP.
//!
//! Both answer what the original's socat and perl answer, byte for byte, and nothing before a line's newline has
//! come. They are fast enough to stand behind a load test: one system call per read, one per write.

use std::collections::HashMap;
use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result};

/// The longest line, and the longest unfinished one that is remembered.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// The largest UDP payload over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;
/// UDP peers whose unfinished lines are remembered.
const PEERS_MAX: usize = 4096;
/// A connection's thread reads, copies and writes, no more.
const STACK_BYTES: usize = 64 * 1024;
/// Takes the bursts of some hundred clients that start together.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Answers each line on the Unix stream socket `path` with `Transcoded on NAME: ` and the line. Does not return,
/// unless the socket cannot be made.
pub fn transcoder(path: &Path, name: &str) -> Result<()> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("cannot replace {}", path.display()));
    }
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    // In a pod the proxy is another user.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    println!("transcoder {name} listening on {}", path.display());
    let prefix: std::sync::Arc<[u8]> = format!("Transcoded on {name}: ").into_bytes().into();
    for connection in listener.incoming() {
        let prefix = std::sync::Arc::clone(&prefix);
        let serve = move |connection| {
            if let Err(error) = transcode(connection, &prefix) {
                println!("connection ended: {error}");
            }
        };
        let spawned = connection.and_then(|connection| {
            std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || serve(connection)).map(drop)
        });
        if let Err(error) = spawned {
            // Out of file descriptors or threads: give the others time to end.
            println!("cannot take a connection: {error}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    Ok(())
}

fn transcode(mut connection: UnixStream, prefix: &[u8]) -> std::io::Result<()> {
    let mut received = vec![0; LINE_BYTES_MAX];
    let (mut unfinished, mut answer) = (Vec::new(), Vec::new());
    loop {
        let length = match connection.read(&mut received) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        answer.clear();
        answer_lines(&mut unfinished, &received[..length], prefix, &mut answer);
        if unfinished.len() > LINE_BYTES_MAX {
            return Err(std::io::Error::other("a line of more than 64 KiB"));
        }
        connection.write_all(&answer)?;
    }
}

/// Answers each line of a datagram to `listen` with `Echo on NAME: `, a newline, and the line, all in one datagram.
/// The beginning of a line that a datagram leaves unfinished is kept for the peer's next one. Does not return,
/// unless the socket cannot be made.
pub fn worker(listen: SocketAddr, name: &str) -> Result<()> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot listen on UDP {listen}"))?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)
        .context("cannot set the size of the receive buffer")?;
    println!("worker {name} listening on UDP {listen}");
    work(&socket, name)
}

fn work(socket: &UdpSocket, name: &str) -> ! {
    let prefix = format!("Echo on {name}: \n").into_bytes();
    let mut received = vec![0; DATAGRAM_BYTES_MAX];
    let mut unfinished = HashMap::new();
    let mut answer = Vec::new();
    loop {
        let (length, peer) = match socket.recv_from(&mut received) {
            Ok(datagram) => datagram,
            // What an earlier answer met: its peer is gone, the others are not.
            Err(error) => {
                println!("cannot receive: {error}");
                continue;
            }
        };
        answer.clear();
        let mut line = unfinished.remove(&peer).unwrap_or_default();
        answer_lines(&mut line, &received[..length], &prefix, &mut answer);
        if !line.is_empty() && line.len() <= LINE_BYTES_MAX && unfinished.len() < PEERS_MAX {
            unfinished.insert(peer, line);
        }
        for part in datagrams(&answer) {
            if let Err(error) = socket.send_to(part, peer) {
                println!("cannot answer {peer}: {error}");
            }
        }
    }
}

/// Puts `prefix` and line into `answer` for each line that `received` ends; the rest stays in `unfinished`.
fn answer_lines(unfinished: &mut Vec<u8>, mut received: &[u8], prefix: &[u8], answer: &mut Vec<u8>) {
    while !received.is_empty() {
        // Reading a slice cannot fail.
        let _ = received.read_until(b'\n', unfinished);
        if unfinished.ends_with(b"\n") {
            answer.extend_from_slice(prefix);
            answer.append(unfinished);
        }
    }
}

/// Cuts an answer into datagrams: one, if it fits, else after the last newline that does.
fn datagrams(answer: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = answer;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut length = rest.len();
        if length > DATAGRAM_BYTES_MAX {
            let newline = rest[..DATAGRAM_BYTES_MAX].iter().rposition(|&byte| byte == b'\n');
            length = newline.map_or(DATAGRAM_BYTES_MAX, |newline| newline + 1);
        }
        let (datagram, others) = rest.split_at(length);
        rest = others;
        Some(datagram)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(reads: &[&str]) -> Vec<String> {
        let mut unfinished = Vec::new();
        let answer_to = |read: &&str| {
            let mut answer = Vec::new();
            answer_lines(&mut unfinished, read.as_bytes(), b"> ", &mut answer);
            String::from_utf8(answer).unwrap()
        };
        reads.iter().map(answer_to).collect()
    }

    #[test]
    fn each_line_is_answered_once_it_is_complete() {
        assert_eq!(answers(&["one\n"]), ["> one\n"]);
        assert_eq!(answers(&["one\ntwo\n\n"]), ["> one\n> two\n> \n"]);
        assert_eq!(answers(&["on", "e\ntw", "", "o\n"]), ["", "> one\n", "", "> two\n"]);
    }

    #[test]
    fn a_large_answer_is_cut_after_a_newline() {
        let line = [vec![b'x'; 40_000], vec![b'\n']].concat();
        let answer = line.repeat(3);
        let lengths: Vec<_> = datagrams(&answer).map(<[u8]>::len).collect();
        assert_eq!(lengths, [40_001, 40_001, 40_001]);
        let lengths: Vec<_> = datagrams(&[b'x'; 70_000]).map(<[u8]>::len).collect();
        assert_eq!(lengths, [65_507, 4_493]);
        assert_eq!(datagrams(b"").count(), 0);
    }

    #[test]
    fn the_transcoder_answers_two_clients_at_once_and_replaces_a_stale_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("echo.sock");
        drop(UnixListener::bind(&path).unwrap());
        let server = path.clone();
        std::thread::spawn(move || transcoder(&server, "pod-1"));
        let connect = || loop {
            if let Ok(stream) = UnixStream::connect(&path) {
                break stream;
            }
            std::thread::yield_now();
        };
        let (mut first, mut second) = (connect(), connect());
        second.write_all(b"2\n").unwrap();
        first.write_all(b"1\n1b\nnever finished").unwrap();
        first.shutdown(std::net::Shutdown::Write).unwrap();
        second.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut to_first, mut to_second) = (String::new(), String::new());
        first.read_to_string(&mut to_first).unwrap();
        second.read_to_string(&mut to_second).unwrap();
        assert_eq!(to_first, "Transcoded on pod-1: 1\nTranscoded on pod-1: 1b\n");
        assert_eq!(to_second, "Transcoded on pod-1: 2\n");
    }

    #[test]
    fn the_worker_answers_a_datagram_with_a_datagram() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        std::thread::spawn(move || work(&server, "pod-2"));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(address).unwrap();
        client.send(b"a line\nand another\nhalf").unwrap();
        client.send(b" a line\n").unwrap();
        let mut answer = [0; 1500];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"Echo on pod-2: \na line\nEcho on pod-2: \nand another\n");
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"Echo on pod-2: \nhalf a line\n");
    }
}
