//! WebSocket frames after the handshake, in both roles, over any split of the bytes (RFC 6455, sections 5 to 8).
//!
//! A data frame that is whole in the bytes that were received, and is a whole message, is unmasked in place. What
//! straddles reads or is fragmented is gathered apart, in memory which an idle connection does not have.

use super::partial::Partial;
use super::{Decoded, Envelope, Finish, MessageType};
use crate::counters::DropReason;
use crate::limits::{CONTROL_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::verdict::Head;

pub mod handshake;
mod header;
pub mod mask;

use header::{Fault, FrameHeader};
pub use header::{Opcode, Role};

/// What a message of a protocol without types is sent as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadType {
    /// Opcode 2.
    #[default]
    Binary,
    /// Opcode 1; what is not UTF-8 is dropped.
    Text,
}

/// One WebSocket connection after its handshake.
#[derive(Debug)]
pub struct WebSocket {
    role: Role,
    untyped: PayloadType,
    state: State,
    /// Made when something first straddles two reads, and kept from then on.
    pending: Option<Box<Pending>>,
}

/// Where the close handshake stands (RFC 6455, section 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// We sent a Close; the peer may still send until its own.
    Closing,
    /// The peer's Close has come, and ours is in the caller's hands, who may send late answers before it.
    Answering,
    /// Both have closed, or a fault has: nothing more is read or sent.
    Closed,
}

/// What has arrived of an unfinished frame and of an unfinished message.
#[derive(Debug, Default)]
struct Pending {
    /// The first `header_len` bytes of a header.
    header: [u8; Head::BYTES_MAX],
    header_len: u8,
    /// The frame whose header is complete and whose payload is not.
    frame: Option<FrameHeader>,
    /// How much of that payload has arrived, and lies unmasked in `message` or `control`.
    received: usize,
    /// The type of the fragmented message that awaits a continuation.
    fragmented: Option<MessageType>,
    message: Partial,
    /// How much of a text `message` is known to be UTF-8.
    checked: usize,
    /// Payload of a control frame, which may come between two fragments.
    control: Partial,
}

impl WebSocket {
    /// A connection whose handshake is done.
    pub fn new(role: Role, untyped: PayloadType) -> WebSocket {
        WebSocket { role, untyped, state: State::Open, pending: None }
    }

    /// Which end we are.
    pub fn role(&self) -> Role {
        self.role
    }

    pub(super) fn decode(&mut self, bytes: &mut [u8], mask: [u8; 4]) -> (usize, Decoded) {
        if matches!(self.state, State::Answering | State::Closed) {
            return (bytes.len(), Decoded::Kept);
        }
        let (start, frame) = match self.next_frame(bytes) {
            Ok(Some(found)) => found,
            Ok(None) => return (bytes.len(), Decoded::Kept),
            Err(fault) => return (bytes.len(), self.fail(fault, mask)),
        };
        let missing = frame.len - self.pending.as_ref().map_or(0, |pending| pending.received);
        if bytes.len() - start < missing {
            self.keep(frame, &bytes[start..]);
            return (bytes.len(), Decoded::Kept);
        }
        let end = start + missing;
        if let Some(pending) = &mut self.pending {
            pending.frame = None;
        }
        let decoded = if frame.opcode.is_control() {
            self.control_arrived(frame, &mut bytes[start..end], mask)
        } else if frame.fin && self.gathers_nothing() {
            message_in_place(frame, &mut bytes[start..end]).map(|kind| Decoded::Message { range: start..end, kind })
        } else {
            self.gather(frame, &bytes[start..end])
        };
        match decoded {
            Ok(decoded) => (end, decoded),
            Err(fault) => (bytes.len(), self.fail(fault, mask)),
        }
    }

    pub(super) fn encode(
        &mut self,
        payload: &mut [u8],
        kind: MessageType,
        mask: [u8; 4],
    ) -> Result<Envelope, DropReason> {
        if matches!(self.state, State::Closing | State::Closed) {
            return Err(DropReason::Closed);
        }
        let opcode = match (kind, self.untyped) {
            (MessageType::Text, _) => Opcode::Text,
            (MessageType::Binary, _) | (MessageType::Untyped, PayloadType::Binary) => Opcode::Binary,
            (MessageType::Untyped, PayloadType::Text) => {
                check_utf8(payload).map_err(|_| DropReason::NotUtf8)?;
                Opcode::Text
            }
        };
        Ok(Envelope { head: seal(self.role, opcode, payload, mask), newline: false })
    }

    pub(super) fn close(&mut self, code: u16, mask: [u8; 4]) -> Option<Vec<u8>> {
        if self.state != State::Open {
            return None;
        }
        self.state = State::Closing;
        let bytes = code.to_be_bytes();
        let payload = if is_close_code(code) { bytes.as_slice() } else { &[] };
        Some(control_frame(self.role, Opcode::Close, payload, mask))
    }

    pub(super) fn finish(&mut self) -> Finish {
        let lost = self.pending.take().is_some_and(|pending| pending.is_unfinished());
        if lost { Finish::Lost } else { Finish::Clean }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending
            .as_ref()
            .map_or(0, |pending| usize::from(pending.header_len) + pending.message.len() + pending.control.len())
    }

    /// The frame that the bytes go on with or start, and where its payload goes on in them.
    fn next_frame(&mut self, bytes: &[u8]) -> Result<Option<(usize, FrameHeader)>, Fault> {
        if let Some(frame) = self.pending.as_ref().and_then(|pending| pending.frame) {
            return Ok(Some((0, frame)));
        }
        let Some((used, frame)) = self.next_header(bytes)? else {
            return Ok(None);
        };
        self.admit(frame)?;
        Ok(Some((used, frame)))
    }

    /// A complete header, and how many of the bytes belong to it.
    fn next_header(&mut self, bytes: &[u8]) -> Result<Option<(usize, FrameHeader)>, Fault> {
        let started = self.pending.as_ref().map_or(0, |pending| usize::from(pending.header_len));
        if started == 0 {
            let found = FrameHeader::parse(bytes, self.role)?;
            if found.is_none() && !bytes.is_empty() {
                let pending = self.pending.get_or_insert_default();
                pending.header[..bytes.len()].copy_from_slice(bytes);
                pending.header_len = bytes.len() as u8;
            }
            return Ok(found);
        }
        let pending = self.pending.get_or_insert_default();
        let taken = bytes.len().min(Head::BYTES_MAX - started);
        pending.header[started..started + taken].copy_from_slice(&bytes[..taken]);
        match FrameHeader::parse(&pending.header[..started + taken], self.role)? {
            Some((len, frame)) => {
                pending.header_len = 0;
                Ok(Some((len - started, frame)))
            }
            None => {
                pending.header_len += taken as u8;
                Ok(None)
            }
        }
    }

    /// Whether the frame may come now (RFC 6455, section 5.4), and its message stays within the limit. Decided from
    /// the header, before any payload is kept.
    fn admit(&self, frame: FrameHeader) -> Result<(), Fault> {
        let fragmented = self.pending.as_ref().is_some_and(|pending| pending.fragmented.is_some());
        match frame.opcode {
            Opcode::Close | Opcode::Ping | Opcode::Pong => return Ok(()),
            Opcode::Text | Opcode::Binary if fragmented => return Err(Fault::Protocol),
            Opcode::Continuation if !fragmented => return Err(Fault::Protocol),
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {}
        }
        let gathered = self.pending.as_ref().map_or(0, |pending| pending.message.len());
        if gathered + frame.len > MESSAGE_BYTES_MAX { Err(Fault::TooBig) } else { Ok(()) }
    }

    /// Whether a data frame that is complete now can be a message where it lies.
    fn gathers_nothing(&self) -> bool {
        self.pending.as_ref().is_none_or(|pending| pending.received == 0 && pending.fragmented.is_none())
    }

    /// Keeps the part of a frame's payload that has arrived.
    fn keep(&mut self, frame: FrameHeader, bytes: &[u8]) {
        let pending = self.pending.get_or_insert_default();
        pending.frame = Some(frame);
        pending.append(frame, bytes);
    }

    /// Adds the last part of a data frame to its message.
    fn gather(&mut self, frame: FrameHeader, bytes: &[u8]) -> Result<Decoded, Fault> {
        let pending = self.pending.get_or_insert_default();
        pending.append(frame, bytes);
        pending.received = 0;
        let kind = pending.fragmented.take().unwrap_or_else(|| kind_of(frame.opcode));
        if kind == MessageType::Text {
            pending.check_text(frame.fin)?;
        }
        if !frame.fin {
            pending.fragmented = Some(kind);
            return Ok(Decoded::Kept);
        }
        pending.checked = 0;
        Ok(Decoded::Reassembled { bytes: pending.message.take(), kind })
    }

    /// A control frame is complete; `bytes` is its payload or the last part of it.
    fn control_arrived(&mut self, frame: FrameHeader, bytes: &mut [u8], mask: [u8; 4]) -> Result<Decoded, Fault> {
        let gathered = match &mut self.pending {
            Some(pending) if pending.received > 0 => {
                pending.append(frame, bytes);
                pending.received = 0;
                Some(pending.control.take())
            }
            Some(_) | None => None,
        };
        let payload = match &gathered {
            Some(gathered) => gathered.as_slice(),
            None => {
                unmask(bytes, frame.mask, 0);
                bytes
            }
        };
        match frame.opcode {
            // After our Close nothing more is sent (section 5.5.1).
            Opcode::Ping if self.state == State::Open => {
                Ok(Decoded::Reply(control_frame(self.role, Opcode::Pong, payload, mask)))
            }
            Opcode::Close => self.peer_closed(payload, mask),
            Opcode::Ping | Opcode::Pong | Opcode::Continuation | Opcode::Text | Opcode::Binary => Ok(Decoded::Kept),
        }
    }

    /// The peer's Close: answered with its own code, unless ours went before (RFC 6455, section 5.5.1).
    fn peer_closed(&mut self, payload: &[u8], mask: [u8; 4]) -> Result<Decoded, Fault> {
        let code = match payload.split_first_chunk::<2>() {
            None if payload.is_empty() => &[],
            None => return Err(Fault::Protocol),
            Some((code, _)) if !is_close_code(u16::from_be_bytes(*code)) => return Err(Fault::Protocol),
            Some((code, reason)) => {
                check_utf8(reason)?;
                code.as_slice()
            }
        };
        let reply = (self.state == State::Open).then(|| control_frame(self.role, Opcode::Close, code, mask));
        self.state = if reply.is_some() { State::Answering } else { State::Closed };
        self.pending = None;
        Ok(Decoded::End { reply })
    }

    /// Fails the connection (RFC 6455, section 7.1.7).
    fn fail(&mut self, fault: Fault, mask: [u8; 4]) -> Decoded {
        let reply = self.close(fault as u16, mask).unwrap_or_default();
        self.state = State::Closed;
        self.pending = None;
        Decoded::Violation { reply, reason: fault.reason() }
    }
}

impl Pending {
    /// Copies a part of a frame's payload, unmasked.
    fn append(&mut self, frame: FrameHeader, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let expected = frame.len - self.received;
        let partial = if frame.opcode.is_control() { &mut self.control } else { &mut self.message };
        unmask(partial.push(bytes, expected), frame.mask, self.received);
        self.received += bytes.len();
    }

    /// Checks what a fragment added to a text; only the last one must end with a whole character.
    fn check_text(&mut self, complete: bool) -> Result<(), Fault> {
        let unchecked = &self.message.bytes()[self.checked..];
        match simdutf8::compat::from_utf8(unchecked) {
            Ok(_) => self.checked += unchecked.len(),
            Err(error) if !complete && error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Fault::NotUtf8),
        }
        Ok(())
    }

    fn is_unfinished(&self) -> bool {
        self.header_len > 0 || self.frame.is_some() || self.fragmented.is_some()
    }
}

/// Unmasks a payload that is a whole message where it lies, and tells its type.
fn message_in_place(frame: FrameHeader, payload: &mut [u8]) -> Result<MessageType, Fault> {
    unmask(payload, frame.mask, 0);
    let kind = kind_of(frame.opcode);
    if kind == MessageType::Text {
        check_utf8(payload)?;
    }
    Ok(kind)
}

fn unmask(bytes: &mut [u8], mask: Option<[u8; 4]>, offset: usize) {
    if let Some(key) = mask {
        mask::apply(bytes, key, offset);
    }
}

/// The type that a first frame gives its message.
fn kind_of(opcode: Opcode) -> MessageType {
    match opcode {
        Opcode::Text => MessageType::Text,
        Opcode::Binary | Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => MessageType::Binary,
    }
}

fn check_utf8(bytes: &[u8]) -> Result<(), Fault> {
    match simdutf8::basic::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(_) => Err(Fault::NotUtf8),
    }
}

/// Whether a code may stand in a Close: those of RFC 6455, section 7.4.1, and of the IANA registry (1012 to 1014), and
/// 3000 to 4999 for libraries and applications. Not 1004, and not 1005, 1006 and 1015, which are never sent.
pub fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The header of a whole frame that `role` sends; a client's payload is masked.
fn seal(role: Role, opcode: Opcode, payload: &mut [u8], mask: [u8; 4]) -> Head {
    let mask = match role {
        Role::Client => Some(mask),
        Role::Server => None,
    };
    unmask(payload, mask, 0);
    FrameHeader { fin: true, opcode, mask, len: payload.len() }.format()
}

/// A whole control frame.
fn control_frame(role: Role, opcode: Opcode, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut payload = payload.to_vec();
    let head = seal(role, opcode, &mut payload, mask);
    [&head[..], &payload].concat()
}
