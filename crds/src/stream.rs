//! How messages lie on a connection; shared by listeners and clusters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How messages lie in a byte stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Each read is a message; boundaries may be lost (the default, as in the original).
    #[default]
    Raw,
    /// A message ends with a newline, which is not part of it.
    Line,
    /// A 16-bit big-endian length stands before each message.
    U16be,
    /// A 32-bit big-endian length stands before each message.
    U32be,
}

/// The type of a WebSocket message that comes from a protocol without types.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// Binary (the default).
    #[default]
    Binary,
    /// Text; a message that is not UTF-8 is dropped.
    Text,
}

/// Kind of a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnixType {
    /// Byte stream (the default, as in the original).
    #[default]
    Stream,
    /// Connected, keeps message boundaries.
    Seqpacket,
    /// Datagrams.
    Dgram,
}
