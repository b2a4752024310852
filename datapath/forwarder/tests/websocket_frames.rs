//! Frames in, verdict, frames out: the examples of RFC 6455, and every malformed frame with its close code.

mod websocket_support;

use l7mp_forwarder::codec::{Codec, Decoded, Finish, MessageType, PayloadType, Role};
use l7mp_forwarder::counters::DropReason;
use l7mp_forwarder::limits::MESSAGE_BYTES_MAX;
use websocket_support::*;

fn server() -> Codec {
    Codec::websocket(Role::Server, PayloadType::Binary)
}

fn client() -> Codec {
    Codec::websocket(Role::Client, PayloadType::Binary)
}

fn text(payload: &str) -> Seen {
    Seen::Message(MessageType::Text, payload.as_bytes().to_vec())
}

fn binary(payload: &[u8]) -> Seen {
    Seen::Message(MessageType::Binary, payload.to_vec())
}

/// A frame from a client.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some(KEY))
}

/// A frame from a server.
fn bare(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, None)
}

fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason].concat()
}

/// What a server answers to a fault.
fn fails(code: u16) -> Seen {
    let reason = if code == 1009 { DropReason::Oversized } else { DropReason::Protocol };
    Seen::Violation(bare(CLOSE, &code.to_be_bytes()), reason)
}

/// Drives a fresh codec whole, byte by byte and in pieces, and expects the same each time.
#[track_caller]
fn expect(name: &str, make: fn() -> Codec, bytes: &[u8], expected: &[Seen]) {
    for cuts in [&[][..], &[1], &[2], &[3, 1], &[7], &[1000]] {
        assert_eq!(drive(&mut make(), bytes, cuts), expected, "{name}, in pieces of {cuts:?}");
    }
}

#[test]
fn reads_the_examples_of_rfc_6455_section_5_7() {
    let hello_masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let ping_masked = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let bytes_256: Vec<u8> = (0..=255).collect();
    let header_256 = [&[0x82, 0x7e, 0x01, 0x00][..], &bytes_256].concat();
    let bytes_64k = vec![0x5a; 65_536];
    let header_64k = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0][..], &bytes_64k].concat();
    expect("unmasked text", client, b"\x81\x05Hello", &[text("Hello")]);
    expect("masked text", server, &hello_masked, &[text("Hello")]);
    expect("two fragments", client, b"\x01\x03Hel\x80\x02lo", &[text("Hello")]);
    expect("a ping", client, b"\x89\x05Hello", &[Seen::Reply(frame(PONG, b"Hello", Some(OUR_KEY)))]);
    expect("a masked pong", server, &ping_masked, &[]);
    expect("256 bytes", client, &header_256, &[binary(&bytes_256)]);
    expect("64 KiB", client, &header_64k, &[binary(&bytes_64k)]);
}

#[test]
fn writes_the_examples_of_rfc_6455_section_5_7() {
    let mut payload = *b"Hello";
    let envelope = server().encode(&mut payload, MessageType::Text, KEY).unwrap();
    assert_eq!((&envelope.head[..], &payload, envelope.newline), (&[0x81, 0x05][..], b"Hello", false));

    let envelope = client().encode(&mut payload, MessageType::Text, KEY).unwrap();
    assert_eq!(envelope.head[..], [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d]);
    assert_eq!(payload, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);

    for (len, head) in [
        (0, &[0x82, 0][..]),
        (125, &[0x82, 125]),
        (126, &[0x82, 126, 0, 126]),
        (256, &[0x82, 126, 1, 0]),
        (65_535, &[0x82, 126, 0xff, 0xff]),
        (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let envelope = server().encode(&mut vec![0; len], MessageType::Binary, KEY).unwrap();
        assert_eq!(&envelope.head[..], head, "{len} bytes");
    }
    let too_long = server().encode(&mut vec![0; MESSAGE_BYTES_MAX + 1], MessageType::Binary, KEY);
    assert_eq!(too_long, Err(DropReason::Oversized));
}

#[test]
fn keeps_types_and_gives_untyped_messages_the_configured_one() {
    type Case<'a> = (PayloadType, MessageType, &'a [u8], Result<u8, DropReason>);
    let cases: [Case<'_>; 8] = [
        (PayloadType::Binary, MessageType::Untyped, b"a", Ok(BINARY)),
        (PayloadType::Binary, MessageType::Untyped, b"\xff", Ok(BINARY)),
        (PayloadType::Binary, MessageType::Text, b"a", Ok(TEXT)),
        (PayloadType::Binary, MessageType::Binary, b"a", Ok(BINARY)),
        (PayloadType::Text, MessageType::Untyped, b"a", Ok(TEXT)),
        (PayloadType::Text, MessageType::Untyped, b"\xff", Err(DropReason::NotUtf8)),
        (PayloadType::Text, MessageType::Binary, b"\xff", Ok(BINARY)),
        (PayloadType::Text, MessageType::Text, b"a", Ok(TEXT)),
    ];
    for (configured, kind, payload, expected) in cases {
        for role in [Role::Client, Role::Server] {
            let mut bytes = payload.to_vec();
            let first = Codec::websocket(role, configured).encode(&mut bytes, kind, OUR_KEY).map(|sent| sent.head[0]);
            assert_eq!(first, expected, "{configured:?} {kind:?} {payload:?}");
            if first.is_err() {
                assert_eq!(bytes, payload, "an error leaves the payload as it was");
            }
        }
    }
}

#[test]
fn a_whole_frame_is_a_range_of_what_was_received() {
    let mut bytes = [masked(BINARY, b"one"), masked(TEXT, b""), masked(BINARY, b"three")].concat();
    let mut codec = server();
    let first = codec.decode(&mut bytes, OUR_KEY);
    assert_eq!(first, (9, Decoded::Message { range: 6..9, kind: MessageType::Binary }));
    assert_eq!(&bytes[6..9], b"one");
    let second = codec.decode(&mut bytes[9..], OUR_KEY);
    assert_eq!(second, (6, Decoded::Message { range: 6..6, kind: MessageType::Text }));
    let third = codec.decode(&mut bytes[15..], OUR_KEY);
    assert_eq!(third, (11, Decoded::Message { range: 6..11, kind: MessageType::Binary }));
    assert_eq!(&bytes[21..26], b"three");
}

#[test]
fn a_payload_that_is_whole_is_not_copied_though_its_header_was_split() {
    for split in 1..=6 {
        let mut codec = server();
        let bytes = masked(BINARY, b"abc");
        let (mut head, mut rest) = (bytes[..split].to_vec(), bytes[split..].to_vec());
        assert_eq!(codec.decode(&mut head, OUR_KEY), (split, Decoded::Kept));
        let range = 6 - split..9 - split;
        let expected = Decoded::Message { range: range.clone(), kind: MessageType::Binary };
        assert_eq!(codec.decode(&mut rest, OUR_KEY), (9 - split, expected));
        assert_eq!(&rest[range], b"abc");
        assert_eq!(codec.pending(), 0);
    }
}

#[test]
fn a_straddling_payload_is_copied_and_counted_as_pending() {
    let mut bytes = masked(BINARY, b"abcdef");
    let mut rest = bytes.split_off(8);
    let mut codec = server();
    assert_eq!(codec.decode(&mut bytes, OUR_KEY), (8, Decoded::Kept));
    assert_eq!(codec.pending(), 2);
    let expected = Decoded::Reassembled { bytes: b"abcdef".to_vec(), kind: MessageType::Binary };
    assert_eq!(codec.decode(&mut rest, OUR_KEY), (4, expected));
    assert_eq!(codec.pending(), 0);
}

#[test]
fn reads_messages_fragments_and_control_frames_between_them() {
    let half = vec![7; MESSAGE_BYTES_MAX / 2];
    type Case<'a> = (&'a str, Vec<Vec<u8>>, Vec<Seen>);
    let cases: Vec<Case<'_>> = vec![
        ("empty text", vec![masked(TEXT, b"")], vec![text("")]),
        ("empty fragments", vec![masked(TEXT_FIRST, b""), masked(MIDDLE, b""), masked(LAST, b"")], vec![text("")]),
        (
            "a character over two fragments",
            vec![masked(TEXT_FIRST, b"\xe2\x82"), masked(LAST, b"\xac")],
            vec![text("\u{20ac}")],
        ),
        (
            "a ping and a pong between fragments",
            vec![
                masked(BINARY_FIRST, b"a"),
                masked(PING, b"p"),
                masked(MIDDLE, b"b"),
                masked(PONG, b"q"),
                masked(LAST, b"c"),
            ],
            vec![Seen::Reply(bare(PONG, b"p")), binary(b"abc")],
        ),
        ("an empty ping", vec![masked(PING, b"")], vec![Seen::Reply(bare(PONG, b""))]),
        ("the longest ping", vec![masked(PING, &[9; 125])], vec![Seen::Reply(bare(PONG, &[9; 125]))]),
        ("a pong that nobody asked for", vec![masked(PONG, b"x"), masked(TEXT, b"a")], vec![text("a")]),
        ("the longest message", vec![masked(BINARY_FIRST, &half), masked(LAST, &half)], vec![binary(&half.repeat(2))]),
        (
            "a message after a message",
            vec![masked(TEXT_FIRST, b"a"), masked(LAST, b"b"), masked(BINARY, b"c")],
            vec![text("ab"), binary(b"c")],
        ),
        (
            "a close between fragments",
            vec![masked(TEXT_FIRST, b"a"), masked(CLOSE, &close_payload(1001, b"bye")), masked(LAST, b"b")],
            vec![Seen::End(Some(bare(CLOSE, &1001u16.to_be_bytes())))],
        ),
        (
            "frames after a close are ignored",
            vec![masked(CLOSE, b""), masked(TEXT, b"a"), masked(PING, b"b"), vec![0xff; 20]],
            vec![Seen::End(Some(bare(CLOSE, b"")))],
        ),
    ];
    for (name, frames, expected) in cases {
        expect(name, server, &frames.concat(), &expected);
    }
}

/// A header with its length as given, masked.
fn header(first: u8, second: u8, len: &[u8]) -> Vec<u8> {
    [&[first, 0x80 | second][..], len, &KEY].concat()
}

#[test]
fn malformed_frames_get_their_close_code() {
    let over = (MESSAGE_BYTES_MAX as u64 + 1).to_be_bytes();
    let half = vec![7; MESSAGE_BYTES_MAX / 2];
    let mut cases: Vec<(String, Vec<u8>, u16)> = vec![
        ("not masked".into(), bare(TEXT, b"a"), 1002),
        ("control frame not masked".into(), bare(PING, b"a"), 1002),
        ("close not masked".into(), bare(CLOSE, b""), 1002),
        ("fragmented ping".into(), masked(0x09, b"a"), 1002),
        ("fragmented pong".into(), masked(0x0a, b"a"), 1002),
        ("fragmented close".into(), masked(0x08, b""), 1002),
        ("ping of 126 bytes".into(), masked(PING, &[0; 126]), 1002),
        ("close of 126 bytes".into(), masked(CLOSE, &close_payload(1000, &[b'x'; 124])), 1002),
        ("pong with a 64-bit length".into(), header(PONG, 127, &1u64.to_be_bytes()), 1002),
        ("continuation of nothing".into(), masked(LAST, b"a"), 1002),
        ("continuation of nothing, not final".into(), masked(MIDDLE, b"a"), 1002),
        ("text inside a message".into(), [masked(TEXT_FIRST, b"a"), masked(TEXT, b"b")].concat(), 1002),
        ("binary inside a message".into(), [masked(TEXT_FIRST, b"a"), masked(BINARY, b"b")].concat(), 1002),
        ("a message inside a message".into(), [masked(BINARY_FIRST, b"a"), masked(BINARY_FIRST, b"b")].concat(), 1002),
        ("125 in 16 bits".into(), header(BINARY, 126, &125u16.to_be_bytes()), 1002),
        ("0 in 16 bits".into(), header(BINARY, 126, &0u16.to_be_bytes()), 1002),
        ("65,535 in 64 bits".into(), header(BINARY, 127, &65_535u64.to_be_bytes()), 1002),
        ("1 in 64 bits".into(), header(BINARY, 127, &1u64.to_be_bytes()), 1002),
        ("the top bit of 64".into(), header(BINARY, 127, &(1u64 << 63).to_be_bytes()), 1002),
        ("all bits of 64".into(), header(BINARY, 127, &u64::MAX.to_be_bytes()), 1002),
        ("a byte too long".into(), header(BINARY, 127, &over), 1009),
        ("a text too long".into(), header(TEXT, 127, &over), 1009),
        ("63 bits of length".into(), header(BINARY, 127, &(u64::MAX >> 1).to_be_bytes()), 1009),
        ("4 GiB and 1 byte".into(), header(BINARY, 127, &((1u64 << 32) + 1).to_be_bytes()), 1009),
        (
            "fragments too long".into(),
            [masked(BINARY_FIRST, &half), masked(MIDDLE, &half), masked(LAST, b"x")].concat(),
            1009,
        ),
        ("text that is not UTF-8".into(), masked(TEXT, b"a\xff"), 1007),
        ("text that ends inside a character".into(), masked(TEXT, b"\xe2\x82"), 1007),
        ("a surrogate".into(), masked(TEXT, b"\xed\xa0\x80"), 1007),
        ("an overlong slash".into(), masked(TEXT, b"\xc0\xaf"), 1007),
        ("beyond U+10FFFF".into(), masked(TEXT, b"\xf4\x90\x80\x80"), 1007),
        (
            "fragments that are not UTF-8".into(),
            [masked(TEXT_FIRST, b"\xe2"), masked(LAST, b"\x28\xa1")].concat(),
            1007,
        ),
        ("close of 1 byte".into(), masked(CLOSE, b"\x03"), 1002),
        ("close whose reason is not UTF-8".into(), masked(CLOSE, &close_payload(1000, b"\xff")), 1007),
    ];
    for reserved in [0x40, 0x20, 0x10, 0x70] {
        cases.push((format!("reserved bits {reserved:#x}"), masked(TEXT | reserved, b"a"), 1002));
        cases.push((format!("reserved bits {reserved:#x} of a ping"), masked(PING | reserved, b"a"), 1002));
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push((format!("opcode {opcode}"), masked(0x80 | opcode, b"a"), 1002));
    }
    for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push((format!("close code {code}"), masked(CLOSE, &close_payload(code, b"")), 1002));
    }
    for (name, mut bytes, code) in cases {
        let before = masked(TEXT, b"before");
        bytes = [before, bytes, masked(TEXT, b"after")].concat();
        expect(&name, server, &bytes, &[text("before"), fails(code)]);
    }
    let unfinished = [masked(TEXT_FIRST, b"\xe2"), masked(MIDDLE, b"\x82"), masked(MIDDLE, b"\xac\xff")].concat();
    expect("a fragment that is not UTF-8, before the last", server, &unfinished, &[fails(1007)]);
    let after_the_last = [masked(TEXT_FIRST, b"a"), masked(LAST, b""), masked(LAST, b"b")].concat();
    expect("continuation after the last", server, &after_the_last, &[text("a"), fails(1002)]);
}

#[test]
fn a_client_refuses_masked_frames_and_masks_its_answers() {
    let fails = |code: u16| Seen::Violation(frame(CLOSE, &code.to_be_bytes(), Some(OUR_KEY)), DropReason::Protocol);
    expect("masked text", client, &masked(TEXT, b"a"), &[fails(1002)]);
    expect("masked ping", client, &masked(PING, b"a"), &[fails(1002)]);
    expect("masked close", client, &masked(CLOSE, b""), &[fails(1002)]);
    expect("bad text", client, &bare(TEXT, b"\xff"), &[fails(1007)]);
    let end = Seen::End(Some(frame(CLOSE, &1000u16.to_be_bytes(), Some(OUR_KEY))));
    expect("close", client, &bare(CLOSE, &close_payload(1000, b"done")), &[end]);
}

#[test]
fn a_fault_is_seen_with_the_byte_that_makes_it_one() {
    for (name, bytes) in [
        ("reserved bit", &[0xc1][..]),
        ("reserved opcode", &[0x83]),
        ("fragmented ping", &[0x09]),
        ("not masked", &[0x81, 0x05]),
        ("long ping", &[0x89, 0xfe]),
        ("16-bit length", &[0x82, 0xfe, 0, 1]),
        ("too big", &[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1]),
    ] {
        let mut codec = server();
        assert_eq!(drive(&mut codec, &bytes[..bytes.len() - 1], &[1]), [], "{name}: nothing before");
        assert!(matches!(drive(&mut codec, &bytes[bytes.len() - 1..], &[])[..], [Seen::Violation(..)]), "{name}");
    }
}

#[test]
fn every_valid_close_code_is_answered_with_itself() {
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let end = Seen::End(Some(bare(CLOSE, &u16::to_be_bytes(code))));
        expect("close", server, &masked(CLOSE, &close_payload(code, "caf\u{e9}".as_bytes())), &[end]);
    }
}

#[test]
fn our_close_goes_first_and_once() {
    let mut codec = server();
    assert_eq!(codec.close(1001, KEY), Some(bare(CLOSE, &1001u16.to_be_bytes())));
    assert_eq!(codec.close(1001, KEY), None);
    assert_eq!(codec.encode(&mut [1], MessageType::Binary, KEY), Err(DropReason::Closed));
    let after =
        [masked(TEXT, b"late"), masked(PING, b"x"), masked(CLOSE, &close_payload(1001, b"")), masked(TEXT, b"y")];
    assert_eq!(drive(&mut codec, &after.concat(), &[]), [text("late"), Seen::End(None)]);

    let mut codec = server();
    codec.close(1000, KEY);
    let violation = Seen::Violation(Vec::new(), DropReason::Protocol);
    assert_eq!(drive(&mut codec, &bare(TEXT, b"a"), &[]), [violation], "a fault after our close sends no second one");

    assert_eq!(client().close(1000, KEY), Some(frame(CLOSE, &1000u16.to_be_bytes(), Some(KEY))));
    assert_eq!(server().close(1005, KEY), Some(bare(CLOSE, b"")), "a code that is never sent is left out");
}

#[test]
fn no_close_follows_the_peers() {
    for (bytes, late_answers) in [(masked(CLOSE, b""), true), (bare(CLOSE, b""), false)] {
        let mut codec = server();
        drive(&mut codec, &bytes, &[]);
        assert_eq!(codec.close(1000, KEY), None);
        assert_eq!(codec.encode(&mut [1], MessageType::Binary, KEY).is_ok(), late_answers);
    }
}

/// `echo x | socat` through TCP -> WebSocket -> TCP: the answer comes behind the client's Close.
#[test]
fn late_answers_go_before_the_reply_to_a_close() {
    let mut codec = server();
    drive(&mut codec, &masked(CLOSE, &close_payload(1000, b"")), &[]);
    assert!(codec.encode(&mut [1], MessageType::Binary, KEY).is_ok());

    let mut codec = server();
    codec.close(1000, KEY);
    drive(&mut codec, &masked(CLOSE, &close_payload(1000, b"")), &[]);
    assert_eq!(codec.encode(&mut [1], MessageType::Binary, KEY), Err(DropReason::Closed));
}

#[test]
fn the_end_of_the_stream_tells_whether_a_message_was_lost() {
    let whole = masked(TEXT, b"abc");
    for len in 0..=whole.len() {
        let mut codec = server();
        drive(&mut codec, &whole[..len], &[]);
        let clean = len == 0 || len == whole.len();
        assert_eq!(codec.finish(), if clean { Finish::Clean } else { Finish::Lost }, "{len} bytes");
        assert_eq!(codec.pending(), 0);
    }
    let mut codec = server();
    drive(&mut codec, &masked(TEXT_FIRST, b""), &[]);
    assert_eq!(codec.finish(), Finish::Lost, "a message without its last fragment");
}

#[test]
fn what_is_kept_stays_within_its_bounds() {
    let mut codec = server();
    let bytes = [masked(BINARY_FIRST, &vec![0; MESSAGE_BYTES_MAX - 1]), masked(PING, &[1; 125])].concat();
    drive(&mut codec, &bytes[..bytes.len() - 1], &[1000]);
    assert_eq!(codec.pending(), MESSAGE_BYTES_MAX - 1 + 124);

    let mut codec = server();
    let refused = header(BINARY, 127, &(1u64 << 40).to_be_bytes());
    drive(&mut codec, &refused, &[]);
    assert_eq!(codec.pending(), 0);
}

#[test]
fn only_a_client_needs_keys() {
    assert!(client().masks());
    for codec in [server(), Codec::Datagram, Codec::Raw, Codec::line()] {
        assert!(!codec.masks());
    }
}
