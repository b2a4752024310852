//! A client: it connects, says its messages, and ends.

use crate::wire::Wire;

/// A client of a listener.
#[derive(Debug)]
pub struct Client {
    /// Its listener's name.
    pub listener: String,
    /// What it speaks.
    pub wire: Wire,
    /// Its present connection, if its protocol has connections.
    pub conn: Option<usize>,
    /// The sequence number of its next message.
    pub next: u32,
    /// How many messages it says in all.
    pub messages: u32,
    /// It says much, and long messages.
    pub talkative: bool,
    /// It has said its end.
    pub ended: bool,
    /// It was told the end.
    pub told: bool,
    /// Its answers, in order.
    pub answers: Vec<u32>,
    /// How often it may still connect.
    pub connects: u32,
    /// Every answer must arrive.
    pub complete: bool,
}

impl Client {
    /// A client that has said nothing.
    pub fn new(listener: String, wire: Wire, messages: u32, talkative: bool, complete: bool) -> Client {
        Client {
            listener,
            wire,
            conn: None,
            next: 0,
            messages,
            talkative,
            ended: false,
            told: false,
            answers: Vec::new(),
            connects: 3,
            complete,
        }
    }

    /// # Errors
    ///
    /// What it should have got and did not.
    pub fn check(&self) -> Result<(), String> {
        if !self.complete {
            return Ok(());
        }
        let wanted: Vec<u32> = (0..self.messages).collect();
        if self.answers != wanted {
            return Err(format!("it said {} messages and got {:?} back", self.next, self.answers));
        }
        if self.told { Ok(()) } else { Err("it was never told the end".to_owned()) }
    }
}
