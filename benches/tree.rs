//! What the tree costs without a disk: building, applying, looking up, decoding, summing ranges.
//! Each line stands beside what it cannot beat: copying and hashing the same bytes.
//!
//! Run with `cargo bench -p dynomite-benches --bench tree [entries]`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::body::{BodyBuilder, BodyRef};
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{
    Apply, Change, Ground, Lookup, Node, Op, Range, RangeSummary, Root, Settings, Source, Step,
    build,
};
use dmerkle::types::{BlockId, Generation, OpeningId, Order, Run, TreeId};
use dmerkle::{Corrupt, Geometry};

/// Time that this thread had a processor: other work on the machine does not count.
struct Instant(Duration);

impl Instant {
    fn now() -> Self {
        let words = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says it");
        let nanos = words.split(' ').next().and_then(|word| word.parse().ok());
        Self(Duration::from_nanos(nanos.expect("a number")))
    }

    fn elapsed(&self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// Nodes in memory, decoded when first asked for.
#[derive(Default)]
struct Memory {
    blocks: HashMap<u64, Vec<u8>>,
    nodes: HashMap<u64, Arc<Node<Vec<u8>>>>,
    next: u64,
    written: u64,
    used: u64,
    reads: u64,
}

#[derive(Debug)]
struct Broken;

impl From<Corrupt> for Broken {
    fn from(corrupt: Corrupt) -> Self {
        panic!("{corrupt}")
    }
}

impl From<Infallible> for Broken {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Source for Memory {
    type Bytes = Vec<u8>;
    type Error = Broken;

    fn node(&mut self, tree: TreeId, pointer: &Pointer) -> Result<Arc<Node<Vec<u8>>>, Broken> {
        self.reads += 1;
        if let Some(node) = self.nodes.get(&pointer.block.0) {
            return Ok(Arc::clone(node));
        }
        let bytes = self.blocks[&pointer.block.0].clone();
        let node = Arc::new(Node::decode(bytes, pointer, tree)?);
        self.nodes.insert(pointer.block.0, Arc::clone(&node));
        Ok(node)
    }
}

impl Ground for Memory {
    fn place(&mut self, order: Order) -> Result<BlockId, Broken> {
        self.next = (self.next + 1).next_multiple_of(order.units().into());
        let block = BlockId(self.next);
        self.next += u64::from(order.units()) - 1;
        Ok(block)
    }

    fn write(&mut self, _: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Broken> {
        self.written += bytes.len() as u64;
        self.blocks.insert(pointer.block.0, bytes);
        Ok(())
    }

    fn retire_node(&mut self, pointer: &Pointer) {
        self.used += 1;
        self.blocks.remove(&pointer.block.0);
        self.nodes.remove(&pointer.block.0);
    }

    fn retire_extent(&mut self, _: Run) {}
}

fn settings(generation: u64) -> Settings {
    Settings {
        tree: TreeId(1),
        geometry: Geometry::default(),
        generation: Generation(generation),
        opening: OpeningId(1),
        key: FingerprintKey::PUBLIC,
    }
}

fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn key(number: u64) -> Vec<u8> {
    let mut state = number;
    format!("{:016x}", random(&mut state)).into_bytes()
}

fn body(length: usize, fill: u8) -> Vec<u8> {
    let mut body = BodyBuilder::new(b"");
    body.inline(&vec![fill; length]);
    body.finish()
}

#[expect(clippy::cast_precision_loss, reason = "for printing")]
fn each(name: &str, count: u64, took: Duration) {
    let nanos = took.as_nanos() as f64 / count as f64;
    println!("{name:58} {nanos:10.1} ns each  {:9.3} M/s", 1e3 / nanos);
}

fn main() {
    let entries = std::env::args()
        .find_map(|word| word.parse().ok())
        .unwrap_or(1_000_000_u64);
    for length in [16, 100, 1000] {
        one(entries.min(200_000_000 / length as u64), length);
    }
}

fn one(entries: u64, length: usize) {
    println!("-- {entries} entries: keys of 16 B, values of {length} B");
    let mut all: Vec<(Vec<u8>, Vec<u8>)> =
        (0..entries).map(|n| (key(n), body(length, 1))).collect();
    all.sort();
    let hash = FingerprintKey::PUBLIC;

    let begin = Instant::now();
    for (key, body) in &all {
        black_box(hash.of_entry(key, BodyRef::trusted(body)));
    }
    each("raw: fingerprint", entries, begin.elapsed());
    let begin = Instant::now();
    let mut copy = Vec::new();
    for (key, body) in &all {
        if copy.len() > 1 << 20 {
            copy.clear();
        }
        copy.extend_from_slice(key);
        copy.extend_from_slice(body);
        black_box(&copy);
    }
    each("raw: copy", entries, begin.elapsed());

    let mut memory = Memory::default();
    let begin = Instant::now();
    let built = build(settings(1), all.iter().map(|(k, b)| (k, b)), &mut memory)
        .expect("memory does not fail");
    each("build from empty", entries, begin.elapsed());
    let fill = all.iter().map(|(k, b)| k.len() + b.len()).sum::<usize>() as u64 * 100;
    println!(
        "   {} nodes, {} levels, {} % of the blocks are keys and bodies",
        built.written,
        built.height,
        fill / memory.written
    );
    lookups(&all, built.root, &mut memory);
    ranges(built.root, &mut memory);
    decodes(&memory);
    let mut root = built.root;
    for (generation, share) in [(2, 1), (3, 10), (4, 100), (5, 1000)] {
        root = update(&all, root, &mut memory, generation, share, length);
    }
    grow(root, &mut memory, entries, length);
}

fn lookups(all: &[(Vec<u8>, Vec<u8>)], root: Root, memory: &mut Memory) {
    let mut state = 7;
    let mut once = |memory: &mut Memory| {
        let at = usize::try_from(random(&mut state) % all.len() as u64).expect("an index");
        let (key, body) = &all[at];
        let mut lookup = Lookup::new(key);
        let mut pointer = root.pointer;
        loop {
            let node = memory.node(TreeId(1), &pointer).expect("memory");
            match lookup.step(&node).expect("sound") {
                Step::Need(next) => pointer = next,
                Step::Found(found) => break assert_eq!(found.as_bytes().len(), body.len()),
                Step::Absent => unreachable!("it was put"),
            }
        }
    };
    for _ in 0..300_000 {
        once(memory);
    }
    let begin = Instant::now();
    for _ in 0..500_000 {
        once(memory);
    }
    each(
        "random lookup, all decoded (hash map of nodes)",
        500_000,
        begin.elapsed(),
    );
    let leaf = memory.nodes.values().find(|node| node.is_leaf());
    let leaf = Arc::clone(leaf.expect("there are leaves"));
    let keys: Vec<_> = leaf.entries().map(|(key, _)| key.to_vec()).collect();
    let begin = Instant::now();
    for round in 0..1_000_000 {
        black_box(leaf.find(&keys[round * 7 % keys.len()]));
    }
    each("find in a leaf in cache", 1_000_000, begin.elapsed());
}

fn ranges(root: Root, memory: &mut Memory) {
    let begin = Instant::now();
    for number in 0..2000 {
        let (a, b) = (key(number), key(number + 1));
        let range = Range::new((&a).min(&b), Some((&a).max(&b)));
        let sum = RangeSummary::new(FingerprintKey::PUBLIC, &root, range);
        black_box(sum.run(memory, TreeId(1)).expect("memory"));
    }
    each("summary of a random range", 2000, begin.elapsed());
}

fn decodes(memory: &Memory) {
    let begin = Instant::now();
    for (block, _) in memory.nodes.iter().take(32).cycle().take(50_000) {
        black_box(
            memory.blocks[block]
                .iter()
                .fold(0u8, |any, byte| any | byte),
        );
    }
    each("raw: touch every byte of a node", 50_000, begin.elapsed());
    let begin = Instant::now();
    let mut count = 0;
    for (block, node) in memory.nodes.iter().take(32).cycle().take(50_000) {
        let bytes = &memory.blocks[block];
        black_box(Node::decode(&bytes[..], node.pointer(), TreeId(1)).expect("sound"));
        count += 1;
    }
    each("decode a node", count, begin.elapsed());
}

fn update(
    all: &[(Vec<u8>, Vec<u8>)],
    root: Root,
    memory: &mut Memory,
    generation: u64,
    share: usize,
    length: usize,
) -> Root {
    let new = body(length, u8::try_from(generation).expect("few"));
    let ops: Vec<_> = all
        .iter()
        .enumerate()
        .filter(|(index, _)| {
            let mut state = *index as u64 ^ generation << 32;
            random(&mut state).is_multiple_of(share as u64)
        })
        .map(|(_, (key, _))| Op {
            key,
            change: Change::Put(&new),
            fingerprint: None,
        })
        .collect();
    let count = ops.len() as u64;
    memory.written = 0;
    let begin = Instant::now();
    let applied = Apply::new(settings(generation), root, ops)
        .run(memory)
        .expect("memory does not fail");
    each(&format!("update 1 in {share}"), count, begin.elapsed());
    println!(
        "   {} bytes written for each",
        memory.written / count.max(1)
    );
    applied.root
}

/// Random insertions, a part of the tree at a time, until it is twice as large.
fn grow(mut root: Root, memory: &mut Memory, entries: u64, length: usize) {
    let value = body(length, 9);
    let rounds = 400;
    let begin = Instant::now();
    for round in 0..rounds {
        let from = entries + round * (entries / rounds);
        let mut keys: Vec<_> = (from..from + entries / rounds).map(key).collect();
        keys.sort();
        let ops = keys.iter().map(|key| Op {
            key,
            change: Change::Put(&value),
            fingerprint: None,
        });
        root = Apply::new(settings(10 + round), root, ops)
            .run(memory)
            .expect("memory does not fail")
            .root;
    }
    each(
        &format!("insert 1 in {rounds}, {rounds} times"),
        entries,
        begin.elapsed(),
    );
    let live: u64 = memory.blocks.values().map(|block| block.len() as u64).sum();
    let bytes = root.summary.count * (16 + 8 + length as u64);
    println!(
        "   {} % of the blocks are keys and bodies",
        bytes * 100 / live
    );
}
