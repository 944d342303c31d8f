//! What applying costs, and how full the leaves are afterwards, for the shapes of load that differ:
//! `cargo run --release -p dmerkle --example apply_cost [entries]`.
//!
//! Per case: time of the thread for each operation, nodes read and bytes written for each, and the
//! bytes of all blocks over those of the keys and values in them (file / live without maps and free
//! space). Nodes lie decoded in memory, so that only `apply` is measured.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Applied, Apply, Change, Ground, Node, Op, Root, Settings, Source};
use dmerkle::types::{BlockId, Generation, OpeningId, Order, Run, Sum, TreeId};
use dmerkle::{Corrupt, Geometry};

const TREE: TreeId = TreeId(1);
const KEY: FingerprintKey = FingerprintKey::PUBLIC;
const VALUE_BYTES: usize = 150;

#[derive(Default)]
struct Memory {
    nodes: HashMap<u64, Arc<Node<Vec<u8>>>>,
    next: u64,
    written: HashMap<u64, Vec<u8>>,
    written_bytes: u64,
    retired: Vec<u64>,
    reads: u64,
}

impl Memory {
    /// Decodes what was written and drops what was retired.
    fn settle(&mut self) {
        for block in self.retired.drain(..) {
            self.nodes.remove(&block).expect("it was there");
        }
        for bytes in std::mem::take(&mut self.written).into_values() {
            let node = Arc::new(Node::decode_orphan(bytes).expect("it was just made"));
            self.nodes.insert(node.pointer().block.0, node);
        }
    }

    fn bytes(&self) -> u64 {
        self.nodes
            .values()
            .map(|node| node.block().len() as u64)
            .sum()
    }
}

impl Source for Memory {
    type Bytes = Vec<u8>;
    type Error = Corrupt;

    fn node(&mut self, _: TreeId, pointer: &Pointer) -> Result<Arc<Node<Vec<u8>>>, Corrupt> {
        self.reads += 1;
        Ok(Arc::clone(&self.nodes[&pointer.block.0]))
    }
}

impl Ground for Memory {
    fn place(&mut self, order: Order) -> Result<BlockId, Corrupt> {
        self.next = (self.next + 1).next_multiple_of(order.units().into());
        let block = BlockId(self.next);
        self.next += u64::from(order.units()) - 1;
        Ok(block)
    }

    fn write(&mut self, _: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Corrupt> {
        self.written_bytes += bytes.len() as u64;
        self.written.insert(pointer.block.0, bytes);
        Ok(())
    }

    fn retire_node(&mut self, pointer: &Pointer) {
        self.retired.push(pointer.block.0);
    }

    fn retire_extent(&mut self, _: Run) {}
}

fn random(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A key of 20 bytes in hashed order, or in the order of the numbers.
fn key(number: u64, sorted: bool) -> Vec<u8> {
    let first = if sorted { number } else { random(number) };
    let mut key = Vec::with_capacity(20);
    key.extend_from_slice(&first.to_be_bytes());
    key.extend_from_slice(&number.to_be_bytes());
    key.extend_from_slice(b".key");
    key
}

fn body(fill: u8, length: usize) -> Vec<u8> {
    let mut body = BodyBuilder::new(b"");
    body.inline(&vec![fill; length]);
    body.finish()
}

/// Time that this thread had a processor: other work on the machine does not count.
fn processor_time() -> Duration {
    let words = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
    let nanos = words.split(' ').next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

/// A tree that grows, and what that has cost.
#[derive(Default)]
struct Case {
    memory: Memory,
    root: Root,
    generation: u64,
    live: u64,
    ops: u64,
    took: Duration,
}

impl Case {
    /// Puts so many keys and bodies at once.
    fn put(&mut self, entries: &[(Vec<u8>, Vec<u8>)]) {
        let ops: Vec<_> = entries
            .iter()
            .map(|(key, body)| Op {
                key,
                change: Change::Put(body),
                fingerprint: Some(KEY.of_entry(key, BodyRef::trusted(body))),
            })
            .collect();
        self.apply(ops);
    }

    fn delete(&mut self, keys: &[Vec<u8>]) {
        let ops: Vec<_> = keys
            .iter()
            .map(|key| Op::<_, Vec<u8>> {
                key,
                change: Change::Delete,
                fingerprint: None,
            })
            .collect();
        self.apply(ops);
    }

    fn apply<K: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, mut ops: Vec<Op<K, V>>) {
        ops.sort_by(|a, b| a.key.as_ref().cmp(b.key.as_ref()));
        self.generation += 1;
        self.ops += ops.len() as u64;
        let settings = Settings {
            tree: TREE,
            geometry: Geometry::default(),
            generation: Generation(self.generation),
            opening: OpeningId(1),
            key: KEY,
        };
        let begin = processor_time();
        let applied: Applied = Apply::new(settings, self.root, ops)
            .run(&mut self.memory)
            .expect("memory does not fail");
        self.took += processor_time().saturating_sub(begin);
        self.root = applied.root;
        self.memory.settle();
    }

    /// Forgets what it has cost so far.
    fn begin(&mut self) {
        self.took = Duration::ZERO;
        self.ops = 0;
        self.memory.reads = 0;
        self.memory.written_bytes = 0;
    }

    #[expect(clippy::cast_precision_loss, reason = "for printing")]
    fn say(&self, name: &str) {
        let each = |total: u64| total as f64 / self.ops as f64;
        let leaves = self.memory.nodes.values().filter(|node| node.is_leaf());
        let leaves = leaves.count();
        println!(
            "{name:48} {:8.0} ns {:8.3} reads {:8.0} B written; {leaves:6} leaves, file/live {:.3}",
            self.took.as_nanos() as f64 / self.ops as f64,
            each(self.memory.reads),
            each(self.memory.written_bytes),
            self.memory.bytes() as f64 / self.live as f64,
        );
    }

    /// Sees that the root's sum is that of the entries.
    fn check(&self) {
        let mut count = 0;
        let mut sum = Sum(0);
        for node in self.memory.nodes.values().filter(|node| node.is_leaf()) {
            for (key, body) in node.entries() {
                count += 1;
                sum = sum.plus(KEY.of_entry(&key.to_vec(), body));
            }
        }
        assert_eq!(
            (self.root.summary.count, self.root.summary.sum),
            (count, sum)
        );
    }
}

fn main() {
    let entries = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(1_000_000_u64);
    let live = entries * (20 + VALUE_BYTES as u64);
    let all = |numbers: std::ops::Range<u64>, sorted: bool, fill: u8| -> Vec<_> {
        numbers
            .map(|n| (key(n, sorted), body(fill, VALUE_BYTES)))
            .collect()
    };

    for rounds in [8, 100] {
        let mut case = Case::default();
        for round in 0..rounds {
            let each = entries / rounds;
            case.put(&all(round * each..(round + 1) * each, false, 1));
        }
        case.live = live;
        case.say(&format!("load in random order, {rounds} rounds"));
        case.check();
        if rounds == 8 {
            updates(&mut case, entries);
        }
    }

    let mut case = Case::default();
    for round in 0..8 {
        let each = entries / 8;
        case.put(&all(round * each..(round + 1) * each, true, 1));
    }
    case.live = live;
    case.say("load in key order, 8 rounds");
    case.check();

    // One operation for some leaves only: what is split has clean neighbours.
    let mut case = Case::default();
    case.put(&all(0..entries / 4, false, 1));
    case.begin();
    let each = (entries / 4 / 85 / 4).max(1);
    let mut from = entries / 4;
    while from < entries {
        case.put(&all(from..(from + each).min(entries), false, 1));
        from += each;
    }
    case.live = live;
    case.say("inserts, 1 for 4 leaves at a time, to 4 times");
    case.check();

    // Three of four go, a hundredth at a time.
    case.begin();
    let mut gone = 0;
    for part in 0..100 {
        let numbers = (0..entries).filter(|n| n % 4 > 0 && random(n + 7) % 100 == part);
        let keys: Vec<_> = numbers.map(|n| key(n, false)).collect();
        gone += keys.len() as u64;
        case.delete(&keys);
    }
    case.live = (entries - gone) * (20 + VALUE_BYTES as u64);
    case.say("three of four deleted, a hundredth at a time");
    case.check();
}

/// Puts that replace entries of a tree packed full.
fn updates(case: &mut Case, entries: u64) {
    for share in [10, 100, 1000] {
        case.begin();
        let numbers = (0..entries).filter(|n| random(n + share).is_multiple_of(share));
        let puts: Vec<_> = numbers
            .map(|n| (key(n, false), body(2, VALUE_BYTES)))
            .collect();
        case.put(&puts);
        case.say(&format!("1 in {share} replaced, same size"));
        case.check();
    }
    case.begin();
    let numbers = (0..entries).filter(|n| random(n + 5).is_multiple_of(100));
    let puts: Vec<_> = numbers
        .map(|n| {
            let length = 100 + usize::try_from(random(n + 6) % 100).expect("small");
            (key(n, false), body(3, length))
        })
        .collect();
    case.put(&puts);
    case.say("1 in 100 replaced, other sizes");
    case.check();
}
