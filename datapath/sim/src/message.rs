//! What travels: `<client,hop,sequence,checksum:fill>`. It carries who sent it, how many servers it has passed, and
//! enough to see that nothing changed it. It tells its own length, so that it is found again in a stream whose
//! boundaries are lost.

use std::fmt::Write;

/// A message as its receiver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The client whose session it belongs to.
    pub client: u32,
    /// How many servers it has passed.
    pub hop: u32,
    /// Counts the messages of the client.
    pub sequence: u32,
    /// Bytes of filling.
    pub fill: usize,
}

impl Message {
    /// The bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut text = format!("<{},{},{},{:x}:", self.client, self.hop, self.sequence, self.checksum());
        let fill = (0..self.fill).map(|n| char::from(b'a' + ((n + self.sequence as usize) % 26) as u8));
        text.extend(fill);
        // Writing to a String cannot fail.
        let _ = write!(text, ">");
        text.into_bytes()
    }

    /// The message of exactly these bytes.
    pub fn decode(bytes: &[u8]) -> Option<Message> {
        let text = std::str::from_utf8(bytes).ok()?.strip_prefix('<')?.strip_suffix('>')?;
        let (numbers, fill) = text.split_once(':')?;
        let mut numbers = numbers.split(',');
        let mut next = || numbers.next();
        let (client, hop, sequence) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
        let message = Message { client, hop, sequence, fill: fill.len() };
        (message.encode() == bytes).then_some(message)
    }

    fn checksum(self) -> u32 {
        [self.client, self.hop, self.sequence, self.fill as u32]
            .iter()
            .fold(0x811c_9dc5, |hash: u32, part| (hash ^ part).wrapping_mul(0x0100_0193))
    }
}

/// Finds messages in payloads whose boundaries may be lost.
#[derive(Debug, Default)]
pub struct Scanner {
    kept: Vec<u8>,
    /// Bytes that belonged to no message.
    pub garbage: usize,
}

impl Scanner {
    /// The messages that are complete now.
    pub fn push(&mut self, payload: &[u8]) -> Vec<Message> {
        let mut found = Vec::new();
        for &byte in payload {
            if byte == b'<' {
                self.garbage += self.kept.len();
                self.kept.clear();
            }
            self.kept.push(byte);
            if byte == b'>' {
                match Message::decode(&self.kept) {
                    Some(message) => found.push(message),
                    None => self.garbage += self.kept.len(),
                }
                self.kept.clear();
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_again_and_alterations_are_seen() {
        let message = Message { client: 3, hop: 1, sequence: 77, fill: 40 };
        let bytes = message.encode();
        assert_eq!(Message::decode(&bytes), Some(message));
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            assert_eq!(Message::decode(&altered), None, "{at}");
        }
        let mut scanner = Scanner::default();
        let stream = [&b"x"[..], &bytes, &bytes[..5], &bytes].concat();
        let found: Vec<Message> = stream.chunks(7).flat_map(|chunk| scanner.push(chunk)).collect();
        assert_eq!((found, scanner.garbage), (vec![message, message], 6));
    }
}
