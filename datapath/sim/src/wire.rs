//! How a peer talks: its protocol and framing, from its own side.

use l7mp_api::config::{Framing, WebSocketPayload};
use l7mp_forwarder::codec::websocket::handshake::{self, Expected};
use l7mp_forwarder::codec::websocket::{Opcode, PayloadType, Role};
use l7mp_forwarder::codec::{Codec, Decoded, MessageType, Width};

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Datagrams that the network may lose, double and reorder.
    Udp,
    /// Unix datagrams.
    Dgram,
    /// Unix packets.
    Seqpacket,
    /// A byte stream.
    Stream(Framing),
    /// RFC 6455.
    WebSocket(WebSocketPayload),
}

impl Wire {
    /// Whether messages may get lost on it.
    pub fn is_lossy(self) -> bool {
        match self {
            Wire::Udp | Wire::Dgram => true,
            Wire::Seqpacket | Wire::Stream(_) | Wire::WebSocket(_) => false,
        }
    }

    /// Whether what is written may be read in other pieces.
    pub fn is_stream(self) -> bool {
        match self {
            Wire::Udp | Wire::Dgram | Wire::Seqpacket => false,
            Wire::Stream(_) | Wire::WebSocket(_) => true,
        }
    }

    /// Whether it forgets where messages end.
    pub fn is_raw(self) -> bool {
        self == Wire::Stream(Framing::Raw)
    }

    fn codec(self, role: Role) -> Codec {
        match self {
            Wire::Udp | Wire::Dgram => Codec::Datagram,
            Wire::Seqpacket => Codec::Seqpacket,
            Wire::Stream(Framing::Raw) => Codec::Raw,
            Wire::Stream(Framing::Line) => Codec::line(),
            Wire::Stream(Framing::U16be) => Codec::length(Width::U16),
            Wire::Stream(Framing::U32be) => Codec::length(Width::U32),
            Wire::WebSocket(WebSocketPayload::Binary) => Codec::websocket(role, PayloadType::Binary),
            Wire::WebSocket(WebSocketPayload::Text) => Codec::websocket(role, PayloadType::Text),
        }
    }
}

/// What a reader found.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// A message.
    Message(Vec<u8>),
    /// Bytes that answer what was read.
    Answer(Vec<u8>),
    /// The other side ended the conversation, or refused it.
    End,
    /// The other side broke the protocol.
    Fault,
}

/// Reads and writes one side of a connection.
#[derive(Debug)]
pub struct Speaker {
    wire: Wire,
    codec: Codec,
    role: Role,
    /// The start of an HTTP message, until it is whole.
    http: Option<Vec<u8>>,
    expected: Option<Expected>,
}

impl Speaker {
    /// A side of a fresh connection.
    pub fn new(wire: Wire, role: Role) -> Speaker {
        let http = matches!(wire, Wire::WebSocket(_)).then(Vec::new);
        Speaker { wire, codec: wire.codec(role), role, http, expected: None }
    }

    /// What a client says first.
    pub fn greeting(&mut self) -> Option<Vec<u8>> {
        match self.wire {
            Wire::WebSocket(_) => {
                let (request, expected) = handshake::request("sim", "/", None, &[], [7; 16]).ok()?;
                self.expected = Some(expected);
                Some(request)
            }
            Wire::Udp | Wire::Dgram | Wire::Seqpacket | Wire::Stream(_) => None,
        }
    }

    /// Whether messages may be sent.
    pub fn is_ready(&self) -> bool {
        self.http.is_none()
    }

    /// Frames a message.
    pub fn write(&mut self, payload: &[u8]) -> Option<Vec<u8>> {
        let mut payload = payload.to_vec();
        let envelope = self.codec.encode(&mut payload, MessageType::Untyped, [5, 6, 7, 8]).ok()?;
        let newline: &[u8] = if envelope.newline { b"\n" } else { b"" };
        Some([&envelope.head[..], &payload, newline].concat())
    }

    /// The goodbye of a protocol that has one.
    pub fn goodbye(&mut self) -> Option<Vec<u8>> {
        self.codec.close(1000, [5, 6, 7, 8])
    }

    /// A ping, where there are any.
    pub fn ping(&self) -> Option<Vec<u8>> {
        let mask: &[u8] = match self.role {
            Role::Client => &[0x80, 0, 0, 0, 0],
            Role::Server => &[0],
        };
        let is_websocket = matches!(self.wire, Wire::WebSocket(_));
        is_websocket.then(|| [&[0x80 | Opcode::Ping as u8], mask].concat())
    }

    /// Reads what arrived.
    pub fn read(&mut self, bytes: &[u8]) -> Vec<Seen> {
        let mut bytes = bytes.to_vec();
        let mut seen = Vec::new();
        if let Some(http) = &mut self.http {
            http.append(&mut bytes);
            let Some(end) = http.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4) else { return seen };
            let refused = http.starts_with(b"HTTP/1.1 ") && !http.starts_with(b"HTTP/1.1 101");
            if refused {
                return vec![Seen::End];
            }
            bytes = http.split_off(end);
            if let (Role::Server, Ok(Some((_, request)))) = (self.role, handshake::read_request(http)) {
                seen.push(Seen::Answer(request.accept(None)));
            }
            self.http = None;
            if bytes.is_empty() {
                return seen;
            }
        }
        self.decode(&mut bytes, &mut seen);
        seen
    }

    fn decode(&mut self, bytes: &mut [u8], seen: &mut Vec<Seen>) {
        let mut at = 0;
        loop {
            let (used, decoded) = self.codec.decode(&mut bytes[at..], [1, 2, 3, 4]);
            match decoded {
                Decoded::Message { range, .. } => seen.push(Seen::Message(bytes[at..][range].to_vec())),
                Decoded::Reassembled { bytes, .. } => seen.push(Seen::Message(bytes)),
                Decoded::Kept => {}
                Decoded::Reply(reply) => seen.push(Seen::Answer(reply)),
                Decoded::End { reply } => {
                    seen.extend(reply.map(Seen::Answer));
                    seen.push(Seen::End);
                }
                Decoded::Violation { .. } => seen.push(Seen::Fault),
            }
            at += used;
            if at >= bytes.len() {
                return;
            }
        }
    }
}
