//! Datagram, raw, line and length framing: tables, and round trips over any split of the bytes.

mod websocket_support;

use l7mp_forwarder::codec::{Codec, Decoded, Envelope, Finish, MessageType, Width};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::limits::MESSAGE_BYTES_MAX;
use proptest::prelude::*;
use websocket_support::{Seen, drive};

const UNTYPED: MessageType = MessageType::Untyped;

fn message(bytes: &[u8]) -> Seen {
    Seen::Message(UNTYPED, bytes.to_vec())
}

fn too_long() -> Seen {
    Seen::Violation(Vec::new(), DropReason::Oversized)
}

/// Head, payload and tail as they go out.
fn framed(codec: &mut Codec, payload: &[u8]) -> Result<Vec<u8>, DropReason> {
    let mut payload = payload.to_vec();
    let Envelope { head, newline } = codec.encode(&mut payload, UNTYPED, [0; 4])?;
    let tail: &[u8] = if newline { b"\n" } else { b"" };
    Ok([&head[..], &payload, tail].concat())
}

#[test]
fn encodes() {
    let long = vec![b'x'; MESSAGE_BYTES_MAX];
    let longer = vec![b'x'; MESSAGE_BYTES_MAX + 1];
    let long_head = [&[0, 1, 0, 0][..], &long].concat();
    let line = || Codec::line();
    let u16be = || Codec::length(Width::U16);
    let u32be = || Codec::length(Width::U32);
    type Case<'a> = (Codec, &'a [u8], Result<&'a [u8], DropReason>);
    let cases: Vec<Case<'_>> = vec![
        (Codec::Datagram, b"abc", Ok(b"abc")),
        (Codec::Datagram, b"", Ok(b"")),
        (Codec::Datagram, &longer, Err(DropReason::Oversized)),
        (Codec::Seqpacket, b"abc", Ok(b"abc")),
        (Codec::Seqpacket, b"", Err(DropReason::Empty)),
        (Codec::Raw, b"a\nbc", Ok(b"a\nbc")),
        (Codec::Raw, b"", Err(DropReason::Empty)),
        (line(), b"abc", Ok(b"abc\n")),
        (line(), b"abc\n", Ok(b"abc\n")),
        (line(), b"abc\r\n", Ok(b"abc\r\n")),
        (line(), b"", Ok(b"\n")),
        (line(), b"\n", Ok(b"\n")),
        (line(), b"\n\n", Err(DropReason::Unframeable)),
        (line(), b"a\nb", Err(DropReason::Unframeable)),
        (line(), &longer, Err(DropReason::Oversized)),
        (u16be(), b"abc", Ok(b"\0\x03abc")),
        (u16be(), b"", Ok(b"\0\0")),
        (u16be(), &long, Err(DropReason::Oversized)),
        (u32be(), b"abc", Ok(b"\0\0\0\x03abc")),
        (u32be(), b"", Ok(b"\0\0\0\0")),
        (u32be(), &long, Ok(&long_head)),
        (u32be(), &longer, Err(DropReason::Oversized)),
    ];
    for (mut codec, payload, expected) in cases {
        let what = format!("{codec:?} {} bytes", payload.len());
        assert_eq!(framed(&mut codec, payload), expected.map(<[u8]>::to_vec), "{what}");
    }
}

#[test]
fn decodes() {
    type Case<'a> = (Codec, &'a [u8], Vec<Seen>, Finish);
    let cases: Vec<Case<'_>> = vec![
        (Codec::Datagram, b"a\nb", vec![message(b"a\nb")], Finish::Clean),
        (Codec::Seqpacket, b"abc", vec![message(b"abc")], Finish::Clean),
        (Codec::Raw, b"a\nb", vec![message(b"a\nb")], Finish::Clean),
        (
            Codec::line(),
            b"a\n\r\n\nb\n",
            vec![message(b"a"), message(b"\r"), message(b""), message(b"b")],
            Finish::Clean,
        ),
        (Codec::line(), b"a\nb", vec![message(b"a")], Finish::Message { bytes: b"b".to_vec(), kind: UNTYPED }),
        (
            Codec::length(Width::U16),
            b"\0\x01a\0\0\0\x02bc",
            vec![message(b"a"), message(b""), message(b"bc")],
            Finish::Clean,
        ),
        (Codec::length(Width::U16), b"\0", vec![], Finish::Lost),
        (Codec::length(Width::U16), b"\0\x01", vec![], Finish::Lost),
        (Codec::length(Width::U32), b"\0\0\0\x02a", vec![], Finish::Lost),
        (Codec::length(Width::U32), b"\0\0\0\x02ab", vec![message(b"ab")], Finish::Clean),
        (Codec::length(Width::U32), b"\0\x01\0\x01ab", vec![too_long()], Finish::Clean),
        (Codec::length(Width::U32), b"\xff\xff\xff\xff", vec![too_long()], Finish::Clean),
    ];
    for (mut codec, bytes, expected, finish) in cases {
        let what = format!("{codec:?} {bytes:?}");
        assert_eq!(drive(&mut codec, bytes, &[]), expected, "{what}");
        assert_eq!(codec.finish(), finish, "{what}");
        assert_eq!(codec.pending(), 0, "{what}");
        assert_eq!(codec.finish(), Finish::Clean, "{what}: once");
    }
}

#[test]
fn an_empty_datagram_is_a_message() {
    assert_eq!(Codec::Datagram.decode(&mut [], [0; 4]), (0, Decoded::Message { range: 0..0, kind: UNTYPED }));
    for mut codec in [Codec::Seqpacket, Codec::Raw, Codec::line(), Codec::length(Width::U16)] {
        assert_eq!(codec.decode(&mut [], [0; 4]), (0, Decoded::Kept), "{codec:?}");
    }
}

#[test]
fn the_longest_line_passes_and_a_longer_one_ends_the_stream() {
    for cuts in [vec![], vec![1000], vec![MESSAGE_BYTES_MAX]] {
        let mut bytes = vec![b'x'; MESSAGE_BYTES_MAX];
        bytes.push(b'\n');
        let expected = vec![message(&bytes[..MESSAGE_BYTES_MAX])];
        assert_eq!(drive(&mut Codec::line(), &bytes, &cuts), expected);

        bytes.insert(0, b'x');
        bytes.extend(b"next\n");
        let mut codec = Codec::line();
        assert_eq!(drive(&mut codec, &bytes, &cuts), [too_long()]);
        assert_eq!(codec.finish(), Finish::Clean);
    }
}

#[test]
fn whole_messages_are_not_copied_even_behind_a_split_length() {
    let mut codec = Codec::length(Width::U32);
    assert_eq!(codec.decode(&mut [0, 0], [0; 4]), (2, Decoded::Kept));
    assert_eq!(codec.pending(), 2);
    let mut rest = *b"\0\x03abcd";
    assert_eq!(codec.decode(&mut rest, [0; 4]), (5, Decoded::Message { range: 2..5, kind: UNTYPED }));
    assert_eq!(codec.pending(), 0);
}

fn any_codec() -> impl Strategy<Value = fn() -> Codec> {
    prop_oneof![
        Just(Codec::line as fn() -> Codec),
        Just((|| Codec::length(Width::U16)) as fn() -> Codec),
        Just((|| Codec::length(Width::U32)) as fn() -> Codec),
    ]
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let byte = any::<u8>().prop_map(|byte| if byte == b'\n' { b' ' } else { byte });
    prop_oneof![
        8 => prop::collection::vec(byte.clone(), 0..100),
        1 => (60_000usize..=65_535, byte).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_over_any_split(
        make in any_codec(),
        payloads in prop::collection::vec(any_payload(), 0..12),
        cuts in prop::collection::vec(1usize..400, 1..20),
    ) {
        let mut codec = make();
        let stream: Vec<u8> = payloads.iter().flat_map(|payload| framed(&mut codec, payload).unwrap()).collect();
        let expected: Vec<Seen> = payloads.iter().map(|payload| message(payload)).collect();
        prop_assert_eq!(&drive(&mut make(), &stream, &cuts), &expected);
        let mut whole = make();
        prop_assert_eq!(&drive(&mut whole, &stream, &[]), &expected);
        prop_assert_eq!(whole.finish(), Finish::Clean);
    }

    #[test]
    fn any_bytes_are_consumed_without_a_panic_and_within_bounds(
        make in any_codec(),
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8)], 0..600),
        cuts in prop::collection::vec(1usize..400, 1..20),
    ) {
        let mut codec = make();
        drive(&mut codec, &bytes, &cuts);
        prop_assert!(codec.pending() <= MESSAGE_BYTES_MAX + 4);
        codec.finish();
        prop_assert_eq!(codec.pending(), 0);
    }
}
