//! What a diff costs: bytes both ways, round trips and time, for copies of a million entries that
//! differ in d of them.
//!
//! `cargo run --release -p dmerkle --example diff_bytes [entries]`
//!
//! Keys are 16 random bytes. *changed*: the key is on both sides with another value, the dearest
//! kind, for it makes two ids; *mixed*: a third changed, a third only here, a third only there.
//! The floor is what the asker cannot know: per difference of the peer its key and fingerprint.
//! In memory a fingerprint is at hand; over a tree each entry of a settled range is also hashed.

use dmerkle::Sum;
use dmerkle::diff::{Contents, Difference, KeyRange, Limits, Next, Session, Sorted, respond};
use std::time::{Duration, Instant};

/// A generator (splitmix64) so that every run measures the same.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn sum(&mut self) -> Sum {
        Sum(u128::from(self.next()) << 64 | u128::from(self.next()))
    }

    fn entry(&mut self) -> (Vec<u8>, Sum) {
        (self.sum().0.to_le_bytes().to_vec(), self.sum())
    }
}

#[derive(Default)]
struct Cost {
    sent: usize,
    received: usize,
    frames: usize,
    messages: usize,
    asking: Duration,
    answering: Duration,
    found: Vec<Difference>,
}

fn measure(mine: &mut Sorted, theirs: &mut Sorted, limits: Limits) -> Cost {
    let mut cost = Cost::default();
    let mut session = Session::new(KeyRange::default(), limits);
    let mut answers = std::collections::VecDeque::new();
    let started = Instant::now();
    let mut step = session.start(mine).expect("in memory");
    loop {
        cost.found.append(&mut step.differences);
        cost.messages += 2 * usize::from(!step.frames.is_empty());
        for frame in &step.frames {
            let since = Instant::now();
            let answer = respond(theirs, frame).expect("a frame of ours");
            cost.answering += since.elapsed();
            cost.frames += 2;
            cost.sent += frame.len();
            cost.received += answer.len();
            answers.push_back(answer);
        }
        step = match step.next {
            Next::Done => break,
            Next::Advance => session.advance(mine),
            Next::Answer => {
                session.receive(mine, &answers.pop_front().expect("an answer per frame"))
            }
        }
        .expect("a peer of ours");
    }
    cost.asking = started.elapsed().saturating_sub(cost.answering);
    cost
}

fn main() {
    let entries: usize = (std::env::args().nth(1)).map_or(1_000_000, |count| {
        count.parse().expect("a number of entries")
    });
    println!("{entries} entries, keys of 16 bytes");
    println!(
        "{:>7} {:>8} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7} {:>9} {:>9} {:>9}",
        "kind",
        "d",
        "sent",
        "received",
        "total",
        "per d",
        "messages",
        "frames",
        "floor",
        "ask ms",
        "answer ms"
    );
    let mut chance = Chance(2009);
    let base: Vec<_> = (0..entries).map(|_| chance.entry()).collect();
    for kind in ["changed", "mixed"] {
        for differing in [0, 1, 100, 1000, 10_000, 100_000] {
            let (mut mine, mut theirs) = (base.clone(), base.clone());
            for i in 0..differing.min(entries) {
                let other = chance.entry();
                if kind == "changed" || i % 3 == 0 {
                    theirs[i].1 = other.1;
                } else if i % 3 == 1 {
                    mine.push(other);
                } else {
                    theirs.push(other);
                }
            }
            let (mut mine, mut theirs) = (Sorted::new(0, mine), Sorted::new(0, theirs));
            let cost = measure(&mut mine, &mut theirs, Limits::default());
            assert_eq!(cost.found.len(), differing.min(entries), "all are found");
            assert!(mine.summary(b"", None).is_ok());
            let told = cost.found.iter().filter(|one| one.theirs.is_some());
            let floor: usize = told.map(|one| one.key.len() + 16).sum();
            let total = cost.sent + cost.received;
            println!(
                "{kind:>7} {differing:>8} {:>9} {:>9} {total:>9} {:>7} {:>9} {:>7} {floor:>9} {:>9.1} {:>9.1}",
                cost.sent,
                cost.received,
                total / differing.max(1),
                cost.messages,
                cost.frames,
                cost.asking.as_secs_f64() * 1e3,
                cost.answering.as_secs_f64() * 1e3,
            );
        }
    }
}
