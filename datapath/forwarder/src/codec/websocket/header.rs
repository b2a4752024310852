//! The header of a frame (RFC 6455, section 5.2), and what is wrong with one.
//!
//! ```text
//!  byte 0             byte 1            then
//!  FIN RSV1-3 OPCODE  MASK LENGTH       0, 2 or 8 bytes of length, 0 or 4 bytes of masking key
//!   1    3      4      1     7
//! ```

use crate::counters::DropReason;
use crate::limits::{CONTROL_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::verdict::Head;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASK: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// The 7-bit length says that 16 bits of length follow.
const LENGTH_16: u8 = 126;
/// The 7-bit length says that 64 bits of length follow.
const LENGTH_64: u8 = 127;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We sent the request: we mask what we send, and take nothing that is masked.
    Client,
    /// We accepted: we send unmasked, and take only what is masked.
    Server,
}

/// What a frame is (RFC 6455, section 11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0,
    /// A message of UTF-8, or its first fragment.
    Text = 1,
    /// A message of bytes, or its first fragment.
    Binary = 2,
    /// The end of the conversation.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping, or says that the sender lives.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    /// Whether it may stand between the fragments of a message (RFC 6455, section 5.5).
    pub fn is_control(self) -> bool {
        match self {
            Opcode::Close | Opcode::Ping | Opcode::Pong => true,
            Opcode::Continuation | Opcode::Text | Opcode::Binary => false,
        }
    }
}

/// Why a connection fails, by the close code that says so (RFC 6455, section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Fault {
    /// The peer broke the protocol.
    Protocol = 1002,
    /// Text that is not UTF-8.
    NotUtf8 = 1007,
    /// A message beyond [`MESSAGE_BYTES_MAX`].
    TooBig = 1009,
}

impl Fault {
    pub(super) fn reason(self) -> DropReason {
        match self {
            Fault::Protocol | Fault::NotUtf8 => DropReason::Protocol,
            Fault::TooBig => DropReason::Oversized,
        }
    }
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The last fragment of its message.
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// The masking key, if it is masked.
    pub(super) mask: Option<[u8; 4]>,
    /// Length of the payload, at most [`MESSAGE_BYTES_MAX`].
    pub(super) len: usize,
}

impl FrameHeader {
    /// Reads a header that was sent to `role`, and tells how long it is. None: it is not complete, though what is
    /// there holds no fault. A fault is seen with the byte that makes it one.
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Option<(usize, FrameHeader)>, Fault> {
        let Some(&first) = bytes.first() else {
            return Ok(None);
        };
        let opcode = Opcode::from_bits(first & OPCODE).ok_or(Fault::Protocol)?;
        let fin = first & FIN != 0;
        if first & RESERVED != 0 || (opcode.is_control() && !fin) {
            return Err(Fault::Protocol);
        }
        let Some(&second) = bytes.get(1) else {
            return Ok(None);
        };
        let masked = second & MASK != 0;
        let short = second & LENGTH;
        if masked != (role == Role::Server) || (opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX) {
            return Err(Fault::Protocol);
        }
        let Some((mut end, len)) = Self::parse_len(short, &bytes[2..])? else {
            return Ok(None);
        };
        end += 2;
        let mut mask = None;
        if masked {
            let Some((key, _)) = bytes[end..].split_first_chunk::<4>() else {
                return Ok(None);
            };
            mask = Some(*key);
            end += key.len();
        }
        Ok(Some((end, FrameHeader { fin, opcode, mask, len })))
    }

    /// The length, and how many bytes it took beyond the 7 bits. It must be in the shortest form, and the top bit of
    /// 64 must be 0 (RFC 6455, section 5.2).
    fn parse_len(short: u8, rest: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
        let (used, len, len_min) = match short {
            LENGTH_16 => {
                let Some((len, _)) = rest.split_first_chunk::<2>() else {
                    return Ok(None);
                };
                (2, u64::from(u16::from_be_bytes(*len)), u64::from(LENGTH_16))
            }
            LENGTH_64 => {
                let Some((len, _)) = rest.split_first_chunk::<8>() else {
                    return Ok(None);
                };
                (8, u64::from_be_bytes(*len), u64::from(u16::MAX) + 1)
            }
            _ => (0, u64::from(short), 0),
        };
        if len < len_min || len > i64::MAX as u64 {
            return Err(Fault::Protocol);
        }
        if len > MESSAGE_BYTES_MAX as u64 {
            return Err(Fault::TooBig);
        }
        Ok(Some((used, len as usize)))
    }

    /// The header as it is sent.
    pub(super) fn format(&self) -> Head {
        let fin = if self.fin { FIN } else { 0 };
        let mask_bit = if self.mask.is_some() { MASK } else { 0 };
        let mut head = Head::EMPTY;
        head.push(&[fin | self.opcode as u8]);
        if self.len < usize::from(LENGTH_16) {
            head.push(&[mask_bit | self.len as u8]);
        } else if let Ok(len) = u16::try_from(self.len) {
            head.push(&[mask_bit | LENGTH_16]);
            head.push(&len.to_be_bytes());
        } else {
            head.push(&[mask_bit | LENGTH_64]);
            head.push(&(self.len as u64).to_be_bytes());
        }
        if let Some(key) = self.mask {
            head.push(&key);
        }
        head
    }
}
