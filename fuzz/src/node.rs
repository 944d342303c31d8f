//! What clients and operators send to a node: the text protocol, contexts, the control socket's
//! frames, and the configuration file.

use arbitrary::Unstructured;
use node::config::Config;
use node::control::{Answer, FRAME_BYTES_MAX, Request, frame};
use node::text::{CONTEXT_BYTES_MAX, Command, Event, KEY_BYTES_MAX, Parser, VALUE_BYTES_MAX};
use node::version::{Context, NodeId, Put, Versions};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// What a parser said, its data joined: however bytes fall into segments, this is the same.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Command(Command),
    Put {
        key: Vec<u8>,
        context: Vec<u8>,
        length: u64,
        data: Vec<u8>,
        ended: bool,
    },
    Malformed(String),
}

struct Listener {
    parser: Parser,
    said: Vec<Said>,
    over: bool,
}

impl Listener {
    fn new() -> Self {
        Self {
            parser: Parser::new(),
            said: Vec::new(),
            over: false,
        }
    }

    fn hear(&mut self, mut segment: &[u8]) {
        while !self.over {
            match self.parser.next(&mut segment) {
                Ok(None) => {
                    assert!(segment.is_empty(), "bytes are left, and nothing is said");
                    break;
                }
                Ok(Some(event)) => self.note(event),
                Err(malformed) => {
                    let reason = malformed.to_string();
                    assert!(!reason.contains('\n'), "a reason is one line");
                    self.said.push(Said::Malformed(reason));
                    self.over = true;
                }
            }
            let held = self.parser.held_bytes();
            // Twice, because vectors grow so.
            let most = 2 * (KEY_BYTES_MAX + CONTEXT_BYTES_MAX + 32);
            assert!(held <= most, "{held} bytes held");
        }
    }

    fn note(&mut self, event: Event<'_>) {
        match event {
            Event::Command(command) => {
                self.over = command == Command::Close;
                self.said.push(Said::Command(command));
            }
            Event::Put {
                key,
                context,
                length,
            } => {
                assert!(key.len() <= KEY_BYTES_MAX && context.len() <= CONTEXT_BYTES_MAX);
                assert!(length <= VALUE_BYTES_MAX);
                self.said.push(Said::Put {
                    key,
                    context,
                    length,
                    data: Vec::new(),
                    ended: false,
                });
            }
            Event::Data(bytes) => {
                assert!(!bytes.is_empty());
                let Some(Said::Put { data, length, .. }) = self.said.last_mut() else {
                    panic!("data without a put");
                };
                data.extend_from_slice(bytes);
                assert!(data.len() as u64 <= *length);
            }
            Event::PutEnd => {
                let Some(Said::Put {
                    data,
                    length,
                    ended,
                    ..
                }) = self.said.last_mut()
                else {
                    panic!("the end of no put");
                };
                assert_eq!(data.len() as u64, *length);
                *ended = true;
            }
        }
    }
}

/// Any bytes in any segmentation say the same, and no more is held than the limits allow. The last
/// bytes of the input are the lengths of the segments.
pub fn text(data: &[u8]) {
    let Some((&count, data)) = data.split_last() else {
        return;
    };
    let (bytes, lengths) = data.split_at(data.len() - data.len().min(usize::from(count % 16)));
    let mut whole = Listener::new();
    whole.hear(bytes);
    let mut single = Listener::new();
    for byte in bytes {
        single.hear(std::slice::from_ref(byte));
    }
    assert_eq!(whole.said, single.said);
    let mut parts = Listener::new();
    let mut rest = bytes;
    for length in lengths.iter().cycle().take(bytes.len()) {
        let (segment, later) = rest.split_at(rest.len().min(usize::from(*length)));
        parts.hear(segment);
        rest = later;
    }
    parts.hear(rest);
    assert_eq!(whole.said, parts.said);
    assert_eq!(whole.parser.in_command(), parts.parser.in_command());
}

/// A frame of the control socket is refused, or its message comes back as it was.
pub fn control(data: &[u8]) {
    fn one<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) {
        let mut input = bytes;
        let Ok(message) = frame::read::<T>(&mut input) else {
            return;
        };
        let encoded = frame::encode(&message).expect("what was read fits a frame");
        assert!(encoded.len() <= FRAME_BYTES_MAX + 4);
        let again: T = frame::read(&mut &encoded[..]).expect("it was just written");
        assert_eq!(again, message);
    }
    one::<Request>(data);
    one::<Answer>(data);
    // With a length that is right, which a fuzzer finds late.
    let mut framed = u32::try_from(data.len())
        .unwrap_or_default()
        .to_le_bytes()
        .to_vec();
    framed.extend_from_slice(data);
    one::<Request>(&framed);
    one::<Answer>(&framed);
}

/// Contexts and metas: what is taken comes back, and takes puts and deletes without fear. The first
/// byte is the number of parts, the second the clock.
pub fn versions(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((parts, clock)) = input.arbitrary::<(u8, u8)>() else {
        return;
    };
    let rest = input.take_rest();
    let _ = Context::decode(rest);
    let mut sealed = vec![0xd7, 1];
    sealed.extend_from_slice(rest);
    let hash = blake3::hash(&sealed);
    sealed.extend_from_slice(&hash.as_bytes()[..4]);
    let context = Context::decode(&sealed).unwrap_or(Context::Overwrite);
    if let Context::Seen(seen) = &context {
        let again = Context::decode(&Context::encode(seen));
        assert_eq!(again.as_ref(), Ok(&context));
    }
    let put = Put {
        node: NodeId(u64::from(parts % 3)),
        now_ms: 1 << (clock % 64),
    };
    let Ok(versions) = Versions::decode(rest, parts.into()) else {
        // The context against nothing at all.
        put_and_delete(&Versions::default(), &context, put);
        return;
    };
    if let Ok(encoded) = versions.encode() {
        let again = Versions::decode(&encoded, parts.into());
        assert_eq!(again.as_ref(), Ok(&versions));
    }
    let own = Context::decode(&versions.context()).expect("a node's own context");
    for context in [&context, &own, &Context::Overwrite, &Context::Foreign] {
        put_and_delete(&versions, context, put);
    }
}

fn put_and_delete(versions: &Versions, context: &Context, put: Put) {
    if let Ok((after, kept)) = versions.put(context, put, |_| false) {
        assert!(!after.is_tombstone());
        assert!(kept.is_sorted_by(|a, b| a < b));
        if let Ok(encoded) = after.encode() {
            let parts = kept.len() + 1;
            assert_eq!(Versions::decode(&encoded, parts).as_ref(), Ok(&after));
        }
    }
    assert!(versions.delete(put).is_tombstone());
}

/// A configuration is refused in words, or within its bounds.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match Config::parse(text) {
        Ok(config) => {
            assert!(config.q <= 16 && config.max_connections >= 1);
            assert!(config.log_size >= 1 << 20 && !config.idle.is_zero());
            // What a store is opened with is worked out from these.
            assert!(config.tombstones.as_secs() >= 86_400);
        }
        Err(reason) => assert!(!reason.is_empty()),
    }
}
