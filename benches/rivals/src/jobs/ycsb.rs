//! The core workloads of YCSB (Cooper et al., "Benchmarking cloud serving systems with YCSB",
//! 2010), a million values of 150 B, zipfian.

use super::loads::LENGTH;
use super::{Context, Figures, Operation, load, run_threads};
use crate::data::{self, Numbers, Zipf, check, key, number_of};
use crate::rival::{Change, Keep, Rival, Session, Setup};
use std::sync::atomic::{AtomicU64, Ordering};

/// A workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Letter {
    /// Half reads, half updates.
    A,
    /// 95 % reads, 5 % updates.
    B,
    /// Reads.
    C,
    /// 95 % reads of the newest, 5 % inserts.
    D,
    /// 95 % scans of up to 100, 5 % inserts.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

/// What the workloads of one store share.
pub(super) struct Records {
    pub(super) count: u64,
    pub(super) length: usize,
    pub(super) keep: Keep,
    zipf: Zipf,
    /// Every thread of every workload inserts numbers of its own.
    lanes: AtomicU64,
}

impl Records {
    pub(super) fn new(count: u64, length: usize, keep: Keep) -> Self {
        Self {
            count,
            length,
            keep,
            zipf: Zipf::new(count),
            lanes: AtomicU64::new(1),
        }
    }

    /// Operations per second.
    pub(super) fn run(
        &self,
        context: &Context,
        store: &dyn Rival,
        letter: Letter,
        threads: usize,
    ) -> f64 {
        run_threads(store, threads, context.span(), context.seed, |_| {
            self.operation(letter)
        })
    }

    fn operation(&self, letter: Letter) -> Operation<'_> {
        let first = self.lanes.fetch_add(1, Ordering::Relaxed) << 40;
        let mut inserted = 0;
        let mut value = Vec::new();
        Box::new(move |session, numbers| {
            let chance = numbers.below(100);
            match letter {
                Letter::A if chance < 50 => self.update(session, numbers, &mut value),
                Letter::B if chance < 5 => self.update(session, numbers, &mut value),
                Letter::F if chance < 50 => {
                    let number = self.zipf.scattered(numbers);
                    let version = self.read(session, number);
                    self.put(session, number, version + 1, &mut value);
                }
                Letter::D | Letter::E if chance < 5 => {
                    self.put(session, first + inserted, 0, &mut value);
                    inserted += 1;
                }
                Letter::D => {
                    // The newest of this thread's own, and behind them what was loaded.
                    let rank = self.zipf.rank(numbers);
                    let number = if rank < inserted {
                        first + inserted - 1 - rank
                    } else {
                        self.count - 1 - (rank - inserted) % self.count
                    };
                    self.read(session, number);
                }
                Letter::E => {
                    let from = key(self.zipf.scattered(numbers));
                    let seen = session.scan(&from, 1 + numbers.below(100), &mut |key, value| {
                        check(number_of(key), value, |_| self.length);
                    });
                    assert!(seen > 0, "at least the first");
                }
                _ => {
                    self.read(session, self.zipf.scattered(numbers));
                }
            }
            1
        })
    }

    fn read(&self, session: &mut dyn Session, number: u64) -> u64 {
        let mut version = None;
        session.get(&key(number), &mut |value| {
            version = Some(check(number, value, |_| self.length));
        });
        version.expect("it was put")
    }

    fn update(&self, session: &mut dyn Session, numbers: &mut Numbers, value: &mut Vec<u8>) {
        let number = self.zipf.scattered(numbers);
        self.put(session, number, numbers.draw() >> 8, value);
    }

    fn put(&self, session: &mut dyn Session, number: u64, version: u64, value: &mut Vec<u8>) {
        data::fill(value, number, version, self.length);
        session.write(&[Change::Put(&key(number), value)], self.keep);
    }
}

/// A store with the records in it, at rest.
fn loaded(context: &Context, keep: Keep, writers: usize) -> (Box<dyn Rival>, Records) {
    let setup = Setup {
        buffered: keep == Keep::Buffered,
        writers,
        ..context.setup()
    };
    let count = context.count(1_000_000);
    let store = context.open(&setup);
    load(&*store, 0..count, LENGTH, keep, None);
    store.flush();
    store.settle();
    (store, Records::new(count, LENGTH, keep))
}

pub(super) fn run_buffered(context: &Context, figures: &mut Figures) {
    let (store, records) = loaded(context, Keep::Buffered, 2);
    // Warm, then in the order that YCSB advises.
    records.run(context, &*store, Letter::C, 2);
    for (row, letter) in [
        ("ycsb-a", Letter::A),
        ("ycsb-b", Letter::B),
        ("ycsb-c", Letter::C),
        ("ycsb-f", Letter::F),
        ("ycsb-d", Letter::D),
    ] {
        let rate = records.run(context, &*store, letter, 2);
        figures.push((row.into(), rate / 1e3));
    }
}

pub(super) fn run_scans(context: &Context, figures: &mut Figures) {
    let (store, records) = loaded(context, Keep::Buffered, 2);
    records.run(context, &*store, Letter::C, 2);
    let rate = records.run(context, &*store, Letter::E, 2);
    figures.push(("ycsb-e".into(), rate / 1e3));
}

pub(super) fn run_durable(context: &Context, figures: &mut Figures) {
    let (store, records) = loaded(context, Keep::Durable, 8);
    records.run(context, &*store, Letter::C, 2);
    for (row, letter) in [("ycsb-a-durable", Letter::A), ("ycsb-b-durable", Letter::B)] {
        let rate = records.run(context, &*store, letter, 8);
        figures.push((row.into(), rate / 1e3));
    }
}
