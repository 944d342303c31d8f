//! Goal: what is parsed depends on the bytes alone, never on how they fall into segments, and no
//! bytes make the parser panic or hold more than its limits. Method: each text is parsed whole,
//! byte by byte and at random cuts, and the events are compared.

use super::*;
use proptest::prelude::*;

/// An event with its value put together: segments cut values at different places.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Command(Command),
    Put(Vec<u8>, Vec<u8>, Vec<u8>),
    Malformed(String),
}

fn parse<'a>(segments: impl Iterator<Item = &'a [u8]>) -> (Vec<Seen>, bool) {
    let mut parser = Parser::new();
    let mut seen = Vec::new();
    let mut open = None::<(_, _, u64, Vec<u8>)>;
    for mut segment in segments {
        loop {
            match parser.next(&mut segment) {
                Ok(None) => break,
                Ok(Some(Event::Command(command))) => seen.push(Seen::Command(command)),
                Ok(Some(Event::Put {
                    key,
                    context,
                    length,
                })) => {
                    open = Some((key, context, length, Vec::new()));
                }
                Ok(Some(Event::Data(data))) => {
                    assert!(!data.is_empty());
                    open.as_mut().unwrap().3.extend_from_slice(data);
                }
                Ok(Some(Event::PutEnd)) => {
                    let (key, context, length, data) = open.take().unwrap();
                    assert_eq!(data.len() as u64, length);
                    seen.push(Seen::Put(key, context, data));
                }
                Err(malformed) => seen.push(Seen::Malformed(malformed.to_string())),
            }
        }
        assert!(segment.is_empty());
    }
    (seen, parser.in_command())
}

fn whole_and_in_bytes(text: &[u8]) -> Vec<Seen> {
    let whole = parse(std::iter::once(text));
    assert_eq!(whole, parse(text.chunks(1)));
    whole.0
}

fn put(key: &str, context: &str, data: &str) -> Seen {
    Seen::Put(key.into(), context.into(), data.into())
}

#[test]
fn the_originals_transcript_is_understood() {
    let text = b"get 1 a\nput 1 a 0  7 a value\nhas 1 a\nhas 1 b\ndel 4 nope\nput 1 k 3 ctx 1 b\n\
        put 0  0  1 e\nput 1 z 0  0 \nget\n1\na\n\n\n has 1 a\r\nhash 1 a\nclose\n";
    let seen = whole_and_in_bytes(text);
    let command = Seen::Command;
    assert_eq!(
        seen,
        [
            command(Command::Get(b"a".into())),
            put("a", "", "a value"),
            command(Command::Has(b"a".into())),
            command(Command::Has(b"b".into())),
            command(Command::Del(b"nope".into())),
            put("k", "ctx", "b"),
            put("", "", "e"),
            put("z", "", ""),
            command(Command::Get(b"a".into())),
            command(Command::Has(b"a".into())),
            command(Command::Hash(b"a".into())),
            command(Command::Close),
        ]
    );
}

#[test]
fn keys_and_values_may_hold_any_byte() {
    let seen = whole_and_in_bytes(b"put 5 a \n\0b 0\n\n4 \n \0c\nget 3 \n\n\n\n");
    assert_eq!(
        seen,
        [
            put("a \n\0b", "", "\n \0c"),
            Seen::Command(Command::Get(b"\n\n\n".into()))
        ]
    );
}

#[test]
fn what_is_no_command_says_why() {
    for (text, reason) in [
        (
            &b"frob 1 a\n"[..],
            "unknown command \"frob\": use get, put, has, del, hash, check or close",
        ),
        (
            b"GET 1 a\n",
            "unknown command \"GET\": use get, put, has, del, hash, check or close",
        ),
        (b"get x a\n", "the length of the key is not a number: \"x\""),
        (
            b"get -1 a\n",
            "the length of the key is not a number: \"-1\"",
        ),
        (b"get  a\n", "the length of the key is not a number: \"\""),
        (
            b"get 5000 a\n",
            "the key has 5000 bytes, and 4092 are allowed",
        ),
        (
            b"put 1 a 0  67108865 a\n",
            "the value has 67108865 bytes, and 67108864 are allowed",
        ),
        (
            b"get 99999999999999999999 ",
            "the length of the key is too large: \"99999999999999999999\", and 4092 bytes are allowed",
        ),
        (
            b"put 1 a 0  1234567890123456789012345 ",
            "the length of the value is too large: \"123456789012345678901\", and 67108864 bytes are \
             allowed",
        ),
        (
            b"get 000000000000000000000000 ",
            "the length of the key is not a number: \"000000000000000000000\"",
        ),
    ] {
        let seen = whole_and_in_bytes(text);
        assert_eq!(seen, [Seen::Malformed(reason.into())]);
    }
}

#[test]
fn a_word_or_a_length_without_end_is_not_waited_for() {
    assert_eq!(whole_and_in_bytes(&[b'x'; 100]).len(), 1);
    assert_eq!(
        whole_and_in_bytes(&[&b"get "[..], &[b'1'; 100]].concat()).len(),
        1
    );
}

#[test]
fn nothing_is_read_after_a_fault_or_a_close() {
    assert_eq!(whole_and_in_bytes(b"frob\nget 1 a\n").len(), 1);
    assert_eq!(whole_and_in_bytes(b"close\nget 1 a\n").len(), 1);
}

#[test]
fn a_connection_rests_only_between_commands() {
    for (text, within) in [
        (&b""[..], false),
        (b"\n\n", false),
        (b"g", true),
        (b"get 1 a", true),
    ] {
        assert_eq!(parse(std::iter::once(text)).1, within);
    }
}

fn command_text() -> impl Strategy<Value = Vec<u8>> {
    let datum = || prop::collection::vec(prop_oneof![Just(b' '), Just(b'\n'), any::<u8>()], 0..20);
    let sized = |bytes: &[u8]| [bytes.len().to_string().as_bytes(), b" ", bytes, b" "].concat();
    prop_oneof![
        (datum(), datum(), datum()).prop_map(move |(key, context, data)| {
            [b"put ".to_vec(), sized(&key), sized(&context), sized(&data)].concat()
        }),
        (
            datum(),
            prop::sample::select(vec!["get ", "has ", "del ", "hash "])
        )
            .prop_map(move |(key, verb)| [verb.as_bytes().to_vec(), sized(&key)].concat()),
    ]
}

proptest! {
    #[test]
    fn segments_never_matter(
        commands in prop::collection::vec(command_text(), 1..8),
        junk in prop::collection::vec(any::<u8>(), 0..10),
        cuts in prop::collection::vec(1usize..40, 1..50),
    ) {
        let mut text = commands.concat();
        text.extend_from_slice(&junk);
        let mut rest = &text[..];
        let mut segments = Vec::new();
        for &cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            let (segment, after) = rest.split_at(cut.min(rest.len()));
            segments.push(segment);
            rest = after;
        }
        let whole = parse(std::iter::once(&text[..]));
        prop_assert!(whole.0.len() >= commands.len());
        prop_assert_eq!(&whole, &parse(segments.into_iter()));
        prop_assert_eq!(&whole, &parse(text.chunks(1)));
    }

    #[test]
    fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        parse(text.chunks(3));
    }
}
