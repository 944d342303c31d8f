//! Goal: kill -9 of a busy node loses nothing that it acknowledged, and leaves of anything else
//! all or nothing.
//! Method: several rounds. Writers put, overwrite and delete keys of their own, and note what was
//! acknowledged; the node is killed among them; a new one must have each key as it was noted, or
//! as the request that was under way would have left it, and find itself whole.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it must be"
)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Node, bytes, done};
use node::client::TextClient;

const ROUNDS: u64 = 6;
const WRITERS: u64 = 8;
const KEYS: u64 = 40;

/// Which value a key has; `None`: it has none.
type Version = Option<u64>;

/// What a writer knows of its keys.
#[derive(Clone, Default)]
struct Known {
    acknowledged: Vec<Version>,
    /// The request that was not answered.
    open: Option<(usize, Version)>,
}

fn key(writer: u64, index: usize) -> Vec<u8> {
    format!("writer {writer} key {index}").into_bytes()
}

/// Most values are short, some have a place of their own, few are streamed.
fn value(version: u64) -> Vec<u8> {
    let length = match version % 20 {
        0 => 300_000,
        1..6 => 5_000,
        _ => 100,
    };
    bytes(version, length + usize::try_from(version % 97).unwrap())
}

/// Writes until the node is gone.
fn write(address: &str, writer: u64, known: &mut Known, acknowledged: &AtomicU64, seed: &mut u64) {
    let Ok(mut client) = TextClient::connect(address) else {
        return;
    };
    loop {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let index = usize::try_from((*seed >> 33) % KEYS).unwrap();
        let version = (!(*seed >> 40).is_multiple_of(10)).then_some(*seed);
        known.open = Some((index, version));
        let key = key(writer, index);
        let answered = match version {
            Some(version) => {
                let value = value(version);
                client.put(&key, b"", value.len() as u64, &mut &value[..])
            }
            None => client.delete(&key),
        };
        if answered.is_err() {
            return;
        }
        known.acknowledged[index] = version;
        known.open = None;
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Compares what the node has with what a writer knows, and learns what became of its open request.
fn compare(client: &mut TextClient, writer: u64, known: &mut Known) {
    for index in 0..known.acknowledged.len() {
        let mut found = Vec::new();
        let got = client.get(&key(writer, index), &mut |piece| {
            found.extend_from_slice(piece.bytes);
            Ok(())
        });
        let found = got.unwrap().map(|_| found);
        let is = |version: Version| found == version.map(value);
        let acknowledged = known.acknowledged[index];
        match known.open {
            Some((open, version)) if open == index && is(version) => {
                known.acknowledged[index] = version;
            }
            _ => assert!(
                is(acknowledged),
                "writer {writer}, key {index}: {acknowledged:?} was acknowledged, {:?} bytes are \
                 there",
                found.map(|found| found.len())
            ),
        }
    }
    known.open = None;
}

#[test]
fn a_busy_node_that_is_killed_loses_nothing_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let acknowledged = AtomicU64::new(0);
    let nothing = Known {
        acknowledged: vec![None; usize::try_from(KEYS).unwrap()],
        open: None,
    };
    let mut writers: Vec<(Known, u64)> = (0..WRITERS).map(|seed| (nothing.clone(), seed)).collect();
    for round in 0..ROUNDS {
        let node = Node::start(folder.path(), "data");
        let client = &mut node.connect();
        for (writer, (known, _)) in (0..).zip(&mut writers) {
            compare(client, writer, known);
        }
        let address = node.address.clone();
        std::thread::scope(|scope| {
            for (writer, (known, seed)) in (0..).zip(&mut writers) {
                let (address, acknowledged) = (&address, &acknowledged);
                scope.spawn(move || write(address, writer, known, acknowledged, seed));
            }
            std::thread::sleep(Duration::from_millis(300 + 170 * round));
            node.kill();
        });
    }
    let node = Node::start(folder.path(), "data");
    for (writer, (known, _)) in (0..).zip(&mut writers) {
        compare(&mut node.connect(), writer, known);
    }
    let said = done(folder.path(), &["check", "--data", "data"]);
    assert!(said.contains("no damage"), "{said}");
    node.stop();
    let acknowledged = acknowledged.into_inner();
    eprintln!("{acknowledged} acknowledged writes in {ROUNDS} rounds");
    assert!(
        acknowledged > 100,
        "the writers had no time: {acknowledged}"
    );
}
