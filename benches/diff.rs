//! A diff of two stores of a million entries that differ in d: bytes, frames, round trips times two
//! (messages), entries that each side reads and hashes one by one, and its time, nodes in the cache;
//! last a thousand neighbours that differ: `cargo bench -p dynomite-benches --bench diff`.
//!
//! `-- --keep DIR` makes the stores in a folder that stays, or takes them from there as they are,
//! and does the diff for the d that they were made for, over and over: for a profiler, which
//! finds the two sides as the functions `ask` and `answer`.

use dmerkle::diff::{self, Contents, KeyRange, Limits, Session, Step};
use dmerkle::{Sum, Summary};
use dynomite_benches::{Folder, Numbers, SMALL, key};
use engine::{Backend, Batch, Durability, Error, Options, SnapshotContents, Store, Tree};
use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

const ENTRIES: u64 = 1_000_000;

/// How often a diff is repeated; the median counts.
const TIMES: usize = 41;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, dir, times, ..] = &words[..]
        && flag == "--keep"
    {
        let times = times.parse().expect("a number");
        let made = [0, 1].map(|side| side_of(Path::new(dir), side, Backend::Threads));
        report(&made, times);
        return;
    }
    if !words.iter().any(|word| word == "--bench") {
        return;
    }
    let folder = Folder::new();
    let made = [0, 1].map(|side| side_of(&folder.file(""), side, Backend::Auto));
    println!(
        "{:>7} {:>9} {:>7} {:>9} {:>11} {:>12} {:>9} {:>9}",
        "d", "bytes", "frames", "messages", "asker reads", "answerer", "ask us", "answer us"
    );
    let mut changed = 1;
    for differing in [1, 100, 1000, 10_000] {
        change(&made[1], changed..differing);
        changed = differing;
        let times = if differing > 100 { TIMES / 4 } else { TIMES };
        report(&made, times);
    }
    // Equal again, but for neighbours.
    change(&made[0], 1..changed);
    let mut contents = made[1].0.snapshot().contents(&made[1].1);
    let neighbours = contents.entries(&[77], None, 1000).expect("read");
    drop(contents);
    let keys = neighbours.into_iter().map(|(key, _)| key);
    put(
        &made[1],
        keys.map(|key| (key, Numbers::new(7).bytes(SMALL))),
    );
    report(&made, TIMES / 4);
}

type Side = (Store, Tree);

fn side_of(dir: &Path, side: u64, backend: Backend) -> Side {
    let options = Options {
        backend,
        cache_bytes: 1 << 30,
        log_bytes: 256 << 20,
        ..Options::default()
    };
    let file = dir.join(format!("side{side}"));
    if file.exists() {
        let store = Store::open(&file, &options).expect("opened");
        let tree = store.tree_or_create(b"rows").expect("a tree");
        return (store, tree);
    }
    let store = Store::create(&file, &options).expect("created");
    let tree = store.tree_or_create(b"rows").expect("a tree");
    let mut number = 0;
    while number < ENTRIES {
        let mut batch = Batch::new();
        for number in number..number + 1000 {
            batch.put(&tree, &key(number), Numbers::new(number).bytes(SMALL));
        }
        store
            .commit(batch, Durability::Buffered)
            .expect("committed");
        number += 1000;
    }
    let made = (store, tree);
    change(&made, 0..side);
    made
}

/// Gives the entries of these places in an order of chance other values.
fn change(side: &Side, places: std::ops::Range<u64>) {
    // A step that has no factor in common with the number of entries.
    let numbers = places.map(|place| place * 618_033 % ENTRIES);
    let value = |number| Numbers::new(number + ENTRIES).bytes(SMALL);
    put(
        side,
        numbers.map(|number| (key(number).to_vec(), value(number))),
    );
}

fn put((store, tree): &Side, entries: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) {
    for (key, value) in entries {
        let mut batch = Batch::new();
        batch.put(tree, &key, value);
        store
            .commit(batch, Durability::Buffered)
            .expect("committed");
    }
    for _ in 0..3 {
        store.checkpoint().expect("a checkpoint");
    }
}

fn report(made: &[Side; 2], times: usize) {
    let mut spent = [vec![], vec![]];
    let mut said = Cost::default();
    for _ in 0..times {
        let cost = compare(made);
        for (all, one) in spent.iter_mut().zip(cost.spent) {
            all.push(one.as_secs_f64() * 1e6);
        }
        said = cost;
    }
    let second: Vec<_> = spent.iter().map(|all| all[1.min(times - 1)]).collect();
    let median = spent.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[times / 2]
    });
    let Cost {
        found,
        bytes,
        frames,
        messages,
        read: [mine, theirs],
        ..
    } = said;
    println!(
        "{found:>7} {bytes:>9} {frames:>7} {messages:>9} {mine:>11} {theirs:>12} {:>9.0} {:>9.0}   \
         (the second: {:.0} {:.0})",
        median[0], median[1], second[0], second[1]
    );
}

#[derive(Default)]
struct Cost {
    found: usize,
    bytes: usize,
    frames: usize,
    messages: usize,
    read: [u64; 2],
    spent: [Duration; 2],
}

/// A side, and how many entries were read of it.
struct Watched {
    side: SnapshotContents,
    read: u64,
}

impl Contents for Watched {
    type Error = Error;

    fn key_id(&self) -> u64 {
        self.side.key_id()
    }

    fn summary(&mut self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Error> {
        self.side.summary(low, high)
    }

    fn summaries(
        &mut self,
        low: &[u8],
        cuts: &[Vec<u8>],
        high: Option<&[u8]>,
    ) -> Result<Vec<Summary>, Error> {
        self.side.summaries(low, cuts, high)
    }

    fn split(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        parts: usize,
    ) -> Result<Vec<Vec<u8>>, Error> {
        self.side.split(low, high, parts)
    }

    fn entries(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Sum)>, Error> {
        let entries = self.side.entries(low, high, limit)?;
        self.read += entries.len() as u64;
        Ok(entries)
    }

    fn visit(
        &mut self,
        low: &[u8],
        high: Option<&[u8]>,
        limit: usize,
        visit: &mut dyn FnMut(&[u8], Sum),
    ) -> Result<(), Error> {
        let Self { side, read } = self;
        side.visit(low, high, limit, &mut |key, sum| {
            *read += 1;
            visit(key, sum);
        })
    }
}

#[inline(never)]
fn answer(contents: &mut Watched, frame: &[u8]) -> Vec<u8> {
    diff::respond(contents, frame).expect("a frame of ours")
}

#[inline(never)]
fn ask(session: &mut Session, contents: &mut Watched, answer: Option<Vec<u8>>) -> Step {
    let step = match answer {
        Some(answer) => session.receive(contents, &answer),
        None => session.advance(contents),
    };
    step.expect("an answer of ours")
}

fn compare([mine, theirs]: &[Side; 2]) -> Cost {
    let [mut contents, mut others] = [mine, theirs].map(|(store, tree)| Watched {
        side: store.snapshot().contents(tree),
        read: 0,
    });
    let mut session = Session::new(KeyRange::default(), Limits::default());
    let mut cost = Cost::default();
    let mut answers = VecDeque::new();
    let begin = Instant::now();
    let mut step = session.start(&mut contents).expect("begun");
    loop {
        cost.found += step.differences.len();
        cost.messages += 2 * usize::from(!step.frames.is_empty());
        for frame in &step.frames {
            let begin = Instant::now();
            let answer = answer(&mut others, frame);
            cost.spent[1] += begin.elapsed();
            cost.bytes += frame.len() + answer.len();
            cost.frames += 2;
            answers.push_back(answer);
        }
        step = match step.next {
            diff::Next::Done => break,
            diff::Next::Advance => ask(&mut session, &mut contents, None),
            diff::Next::Answer => ask(&mut session, &mut contents, answers.pop_front()),
        };
    }
    cost.read = [contents.read, others.read];
    cost.spent[0] = begin.elapsed().saturating_sub(cost.spent[1]);
    cost
}
