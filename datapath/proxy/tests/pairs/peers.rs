//! Small blocking peers of every protocol: the clients of the proxy's listeners, the servers of its clusters.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketType};
use tungstenite::protocol::Role;
use tungstenite::{Bytes, Message as Frame, WebSocket};

/// How long one look for an answer takes.
const LOOK: Duration = Duration::from_millis(2);

/// How messages lie in a byte stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Framing {
    Raw,
    Line,
    U16be,
    U32be,
}

impl Framing {
    pub fn name(self) -> &'static str {
        match self {
            Framing::Raw => "raw",
            Framing::Line => "line",
            Framing::U16be => "u16be",
            Framing::U32be => "u32be",
        }
    }

    fn encode(self, message: &[u8]) -> Vec<u8> {
        match self {
            Framing::Raw => message.to_vec(),
            Framing::Line => [message, b"\n"].concat(),
            Framing::U16be => [&(message.len() as u16).to_be_bytes(), message].concat(),
            Framing::U32be => [&(message.len() as u32).to_be_bytes(), message].concat(),
        }
    }

    /// Takes a whole message from the start of what has arrived.
    fn decode(self, arrived: &mut Vec<u8>) -> Option<Vec<u8>> {
        let (head, len, tail) = match self {
            Framing::Raw => (0, Some(arrived.len()).filter(|&len| len > 0)?, 0),
            Framing::Line => (0, arrived.iter().position(|&byte| byte == b'\n')?, 1),
            Framing::U16be => (2, usize::from(u16::from_be_bytes(*arrived.first_chunk()?)), 0),
            Framing::U32be => (4, u32::from_be_bytes(*arrived.first_chunk()?) as usize, 0),
        };
        if arrived.len() < head + len + tail {
            return None;
        }
        let message = arrived[head..head + len].to_vec();
        arrived.drain(..head + len + tail);
        Some(message)
    }
}

/// What a peer sends or hears.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub bytes: Vec<u8>,
    /// WebSocket's text; false for all others.
    pub text: bool,
}

/// A protocol, as a peer speaks it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Udp,
    Tcp(Framing),
    WebSocket { text: bool },
    UnixStream(Framing),
    Seqpacket,
    Dgram,
}

impl Kind {
    /// Whether the boundaries of messages may be lost.
    pub fn is_raw(self) -> bool {
        matches!(self, Kind::Tcp(Framing::Raw) | Kind::UnixStream(Framing::Raw))
    }

    /// Whether an empty message means something.
    pub fn says_nothing(self) -> bool {
        self.is_raw() || self == Kind::Seqpacket
    }
}

/// A socket of any kind, and whom it speaks with.
pub enum Conversation {
    Stream {
        file: File,
        framing: Framing,
        arrived: Vec<u8>,
    },
    Seqpacket(OwnedFd),
    Udp(UdpSocket, Option<SocketAddr>),
    /// With the peer that spoke last; None: it is connected to its only one.
    Dgram(UnixDatagram, Option<UnixAddr>),
    WebSocket(Box<WebSocket<TcpStream>>),
}

impl Conversation {
    fn stream(fd: impl Into<OwnedFd>, framing: Framing) -> Conversation {
        Conversation::Stream { file: File::from(fd.into()), framing, arrived: Vec::new() }
    }

    fn web_socket(stream: TcpStream, role: Role) -> Conversation {
        Conversation::WebSocket(Box::new(WebSocket::from_raw_socket(stream, role, None)))
    }

    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        let bytes = &message.bytes[..];
        match self {
            Conversation::Stream { file, framing, .. } => file.write_all(&framing.encode(bytes)),
            Conversation::Seqpacket(fd) => {
                rustix::net::send(fd, bytes, SendFlags::NOSIGNAL).map(drop).map_err(Into::into)
            }
            Conversation::Udp(socket, peer) => socket.send_to(bytes, peer.expect("a peer")).map(drop),
            Conversation::Dgram(socket, Some(peer)) => socket.send_to_addr(bytes, peer).map(drop),
            Conversation::Dgram(socket, None) => socket.send(bytes).map(drop),
            Conversation::WebSocket(socket) => {
                let bytes = Bytes::copy_from_slice(bytes);
                let text = || Frame::Text(bytes.clone().try_into().expect("text"));
                socket.send(if message.text { text() } else { Frame::Binary(bytes.clone()) }).map_err(io::Error::other)
            }
        }
    }

    /// The next message; `WouldBlock` when none comes in time, `UnexpectedEof` at the end.
    pub fn receive(&mut self) -> io::Result<Message> {
        let mut buffer = vec![0; 1 << 16];
        match self {
            Conversation::Stream { file, framing, arrived } => loop {
                if let Some(bytes) = framing.decode(arrived) {
                    return Ok(Message { bytes, text: false });
                }
                match file.read(&mut buffer)? {
                    0 => return Err(ErrorKind::UnexpectedEof.into()),
                    len => arrived.extend(&buffer[..len]),
                }
            },
            Conversation::Seqpacket(fd) => match rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty())?.0 {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                len => Ok(Message { bytes: buffer[..len].to_vec(), text: false }),
            },
            Conversation::Udp(socket, peer) => {
                let (len, from) = socket.recv_from(&mut buffer)?;
                *peer = Some(from);
                Ok(Message { bytes: buffer[..len].to_vec(), text: false })
            }
            Conversation::Dgram(socket, peer) => {
                let (len, from) = socket.recv_from(&mut buffer)?;
                *peer = peer.is_some().then_some(from);
                Ok(Message { bytes: buffer[..len].to_vec(), text: false })
            }
            Conversation::WebSocket(socket) => loop {
                match socket.read() {
                    Ok(Frame::Binary(bytes)) => return Ok(Message { bytes: bytes.to_vec(), text: false }),
                    Ok(Frame::Text(text)) => return Ok(Message { bytes: text.as_bytes().to_vec(), text: true }),
                    Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_)) => {}
                    Ok(Frame::Close(_)) => return Err(ErrorKind::UnexpectedEof.into()),
                    Err(tungstenite::Error::Io(error)) => return Err(error),
                    Err(error) => return Err(io::Error::other(error)),
                }
            },
        }
    }

    fn fd(&self) -> &dyn AsFd {
        match self {
            Conversation::Stream { file, .. } => file,
            Conversation::Seqpacket(fd) => fd,
            Conversation::Udp(socket, _) => socket,
            Conversation::Dgram(socket, _) => socket,
            Conversation::WebSocket(socket) => socket.get_ref(),
        }
    }
}

/// Where a peer is found.
#[derive(Clone, Debug)]
pub enum Place<'a> {
    Inet(SocketAddr),
    Unix(&'a Path),
}

/// A client of a listener. Its `receive` looks for a moment only.
pub fn connect(kind: Kind, place: &Place<'_>, own: &Path) -> Conversation {
    let socket = match (kind, place) {
        (Kind::Udp, Place::Inet(address)) => Conversation::Udp(UdpSocket::bind("127.0.0.1:0").unwrap(), Some(*address)),
        (Kind::Tcp(framing), Place::Inet(address)) => {
            Conversation::stream(TcpStream::connect(address).unwrap(), framing)
        }
        (Kind::WebSocket { .. }, Place::Inet(address)) => {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let (client, _) = tungstenite::client(format!("ws://{address}/"), stream).expect("a WebSocket");
            Conversation::WebSocket(Box::new(client))
        }
        (Kind::UnixStream(framing), Place::Unix(path)) => {
            Conversation::stream(UnixStream::connect(path).unwrap(), framing)
        }
        (Kind::Seqpacket, Place::Unix(path)) => {
            let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            rustix::net::connect(&fd, &SocketAddrUnix::new(*path).unwrap()).unwrap();
            Conversation::Seqpacket(fd)
        }
        (Kind::Dgram, Place::Unix(path)) => {
            let _ = std::fs::remove_file(own);
            let socket = UnixDatagram::bind(own).unwrap();
            socket.connect(path).unwrap();
            Conversation::Dgram(socket, None)
        }
        (kind, place) => panic!("{kind:?} at {place:?}"),
    };
    set_socket_timeout(socket.fd(), Timeout::Recv, Some(LOOK)).unwrap();
    socket
}

/// A server of a cluster: `heard` gets its messages, except those that ask for an answer ([`ask`]).
pub struct Server {
    /// The port of an Internet server.
    pub port: u16,
    pub heard: Receiver<Message>,
}

/// The message that asks a server for one of `size` bytes.
pub fn ask(size: usize, text: bool) -> Message {
    Message { bytes: format!("?{size:08};").into_bytes(), text }
}

/// What a server answers to [`ask`].
pub fn answer(size: usize, text: bool) -> Message {
    Message { bytes: (b'A'..=b'Z').cycle().take(size).collect(), text }
}

/// What a client says.
pub fn question(size: usize, text: bool) -> Message {
    Message { bytes: (b'a'..=b'z').cycle().take(size).collect(), text }
}

/// Starts a server; Unix ones at `path`.
pub fn serve(kind: Kind, path: &Path) -> Server {
    let (sender, heard) = channel();
    let mut port = 0;
    match kind {
        Kind::Udp => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            port = socket.local_addr().unwrap().port();
            thread::spawn(move || converse(Conversation::Udp(socket, None), &sender));
        }
        Kind::Dgram => {
            let socket = UnixDatagram::bind(path).unwrap();
            let nobody = UnixAddr::from_pathname("").unwrap();
            thread::spawn(move || converse(Conversation::Dgram(socket, Some(nobody)), &sender));
        }
        Kind::Tcp(_) | Kind::WebSocket { .. } => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            port = listener.local_addr().unwrap().port();
            let open = move |stream: TcpStream| {
                stream.set_nodelay(true).unwrap();
                match kind {
                    Kind::Tcp(framing) => Some(Conversation::stream(stream, framing)),
                    _ => tungstenite::accept(stream).ok().map(|accepted| {
                        let stream = accepted.get_ref().try_clone().expect("a stream");
                        Conversation::web_socket(stream, Role::Server)
                    }),
                }
            };
            let accept = move || listener.accept().ok().map(|(stream, _)| stream);
            thread::spawn(move || accept_all(accept, open, &sender));
        }
        Kind::UnixStream(framing) => {
            let listener = UnixListener::bind(path).unwrap();
            let accept = move || listener.accept().ok().map(|(stream, _)| stream);
            thread::spawn(move || {
                accept_all(accept, move |stream| Some(Conversation::stream(stream, framing)), &sender)
            });
        }
        Kind::Seqpacket => {
            let fd = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
            rustix::net::bind(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
            rustix::net::listen(&fd, 16).unwrap();
            let accept = move || rustix::net::accept(&fd).ok();
            thread::spawn(move || accept_all(accept, |fd| Some(Conversation::Seqpacket(fd)), &sender));
        }
    }
    Server { port, heard }
}

fn accept_all<S: Send + 'static>(
    accept: impl Fn() -> Option<S>,
    open: impl Fn(S) -> Option<Conversation> + Clone + Send + 'static,
    heard: &Sender<Message>,
) {
    while let Some(stream) = accept() {
        let (open, heard) = (open.clone(), heard.clone());
        thread::spawn(move || {
            if let Some(socket) = open(stream) {
                converse(socket, &heard);
            }
        });
    }
}

/// A server's side of a conversation, until it ends.
fn converse(mut socket: Conversation, heard: &Sender<Message>) {
    while let Ok(message) = socket.receive() {
        let asked = message.bytes.strip_prefix(b"?").and_then(|rest| rest.strip_suffix(b";"));
        let size = asked.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let done = match size {
            Some(size) => socket.send(&answer(size, message.text)).is_ok(),
            None => heard.send(message).is_ok(),
        };
        if !done {
            return;
        }
    }
}
