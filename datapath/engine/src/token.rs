//! What a completion belongs to, in 64 bits: operation (8) | generation (24) | index (32).
//!
//! The upper half of the operation's byte is the class of buffers that a receive fills, so that a buffer finds back to
//! its pool whatever became of the link.
//!
//! A completion may arrive long after its link was closed and its slot taken by another link. The generation tells
//! the two apart, so such a completion is dropped and never misrouted.

use l7mp_forwarder::ids::LinkId;

use crate::buffers::Class;

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Op {
    /// A multishot receive of a link. Index and generation are the link's.
    Receive = 1,
    /// A multishot receive of a datagram listener. Index and generation are the listener slot's.
    ListenerReceive = 2,
    /// A multishot accept. Index and generation are the listener slot's.
    Accept = 3,
    /// A UDP datagram or train. Index is the train's slot, generation the flush that it belongs to.
    Train = 4,
    /// An ordered send of a stream, seqpacket or Unix dgram link. Index and generation are the link's.
    Ordered = 5,
    /// A connect. Index and generation are the link's.
    Connect = 6,
    /// A cancellation; only its failure is reported, and ignored.
    Cancel = 7,
    /// The read of the waker's eventfd.
    Wake = 8,
}

/// An operation and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// What.
    pub op: Op,
    /// Which buffers a receive fills; `Large` for all else.
    pub class: Class,
    /// Which user of the slot, 24 bits.
    pub generation: u32,
    /// The slot.
    pub index: u32,
}

/// Bits of a generation.
const GENERATION_MASK: u32 = (1 << LinkId::GENERATION_BITS) - 1;

impl Token {
    /// A token of a slot.
    pub fn new(op: Op, index: u32, generation: u32) -> Token {
        Token { op, class: Class::Large, generation: generation & GENERATION_MASK, index }
    }

    /// The same for a receive into another class.
    pub fn with_class(self, class: Class) -> Token {
        Token { class, ..self }
    }

    /// A token of a link.
    pub fn link(op: Op, link: LinkId) -> Token {
        Token::new(op, link.index() as u32, link.generation())
    }

    /// The link of a link's token.
    pub fn link_id(self) -> LinkId {
        LinkId::new(self.index, self.generation)
    }

    /// As `user_data`.
    pub fn pack(self) -> u64 {
        (self.op as u64) << 56 | (self.class as u64) << 60 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// From `user_data`. `None` for an operation that we never submitted.
    pub fn unpack(data: u64) -> Option<Token> {
        let op = match data >> 56 & 0xf {
            1 => Op::Receive,
            2 => Op::ListenerReceive,
            3 => Op::Accept,
            4 => Op::Train,
            5 => Op::Ordered,
            6 => Op::Connect,
            7 => Op::Cancel,
            8 => Op::Wake,
            _ => return None,
        };
        let class = *Class::ALL.get((data >> 60) as usize)?;
        Some(Token { op, class, generation: (data >> 32) as u32 & GENERATION_MASK, index: data as u32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for op in
            [Op::Receive, Op::ListenerReceive, Op::Accept, Op::Train, Op::Ordered, Op::Connect, Op::Cancel, Op::Wake]
        {
            let token = Token::new(op, u32::MAX - 1, 0x12_3456);
            assert_eq!(Token::unpack(token.pack()), Some(token));
            let token = token.with_class(Class::Small);
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(0), None);
        assert_eq!(Token::unpack(u64::MAX), None);
    }

    #[test]
    fn a_successor_has_another_token() {
        let link = LinkId::new(7, (1 << LinkId::GENERATION_BITS) - 1);
        assert_ne!(Token::link(Op::Receive, link).pack(), Token::link(Op::Receive, link.successor()).pack());
        assert_eq!(Token::link(Op::Receive, link).link_id(), link);
    }
}
