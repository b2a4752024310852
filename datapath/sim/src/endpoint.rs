//! A server: it sends every message back, one hop further.

/// What a server does with those who connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Serves.
    Serves,
    /// Refuses connections, and breaks those it has.
    Dead,
    /// Never answers a connection.
    Silent,
    /// Closes what it has accepted.
    Fickle,
}

/// A server.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// What it does now.
    pub mood: Mood,
    /// Bytes per millisecond that it reads.
    pub rate: usize,
}
