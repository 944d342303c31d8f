//! The jobs: what one child process does with one store. A job fills one or several rows.

mod crash;
mod diff;
mod loads;
mod memory;
mod powerset;
mod puts;
mod reads;
mod ycsb;

use crate::data::{self, Numbers};
use crate::rival::{Change, Keep, Rival, Session, Setup};
use crate::stores::{Part, Store};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use crash::load_until_killed;

/// One job.
pub(crate) struct Job {
    /// Its name in results.
    pub(crate) name: &'static str,
    /// The rows that it fills.
    pub(crate) rows: &'static [&'static str],
    /// Who takes part.
    pub(crate) parts: &'static [Part],
    /// What its processes find in their environment.
    pub(crate) environment: &'static [(&'static str, &'static str)],
    pub(crate) run: fn(&Context, &mut Figures),
}

/// What a child was told.
pub(crate) struct Context {
    pub(crate) store: &'static Store,
    /// An empty folder.
    pub(crate) dir: PathBuf,
    /// Counts are multiplied by this; 1 is the contest.
    pub(crate) scale: f64,
    /// How long what is measured by time is measured.
    pub(crate) seconds: f64,
    /// Differs between repetitions.
    pub(crate) seed: u64,
}

/// What came of it: a figure by the name of its row, and by other names what is only told.
pub(crate) type Figures = Vec<(String, f64)>;

impl Context {
    fn setup(&self) -> Setup {
        Setup::new(self.dir.clone())
    }

    fn open(&self, setup: &Setup) -> Box<dyn Rival> {
        (self.store.open)(setup)
    }

    fn count(&self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1000)
    }

    fn is_bare(&self) -> bool {
        self.store.part == Part::Bare
    }

    fn span(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

use Part::{Bare, Grouped, NeverFlushes, Ours, Rival as Other, Variant};

/// Those who write alone and durably.
const SINGLE: &[Part] = &[Ours, Bare, Other, NeverFlushes];
/// Those who write durably with others.
const MANY: &[Part] = &[Ours, Bare, Other, NeverFlushes, Grouped];
const MANY_READ: &[Part] = &[Ours, Other, NeverFlushes, Grouped];
const STORES: &[Part] = &[Ours, Other, NeverFlushes];

/// All jobs.
pub(crate) const JOBS: &[Job] = &[
    Job {
        name: "put-150-1",
        rows: &["put-150-1"],
        parts: SINGLE,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-150-1", 150, 1),
    },
    Job {
        name: "put-150-8",
        rows: &["put-150-8"],
        parts: MANY,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-150-8", 150, 8),
    },
    Job {
        name: "put-150-32",
        rows: &["put-150-32"],
        parts: MANY,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-150-32", 150, 32),
    },
    Job {
        name: "put-1k-1",
        rows: &["put-1k-1"],
        parts: SINGLE,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-1k-1", 1000, 1),
    },
    Job {
        name: "put-1k-8",
        rows: &["put-1k-8"],
        parts: MANY,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-1k-8", 1000, 8),
    },
    Job {
        name: "put-1k-32",
        rows: &["put-1k-32"],
        parts: MANY,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-1k-32", 1000, 32),
    },
    Job {
        name: "put-4k-1",
        rows: &["put-4k-1", "put-4k-1-space"],
        parts: SINGLE,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-4k-1", 4000, 1),
    },
    Job {
        name: "put-4k-8",
        rows: &["put-4k-8", "put-4k-8-space"],
        parts: MANY,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-4k-8", 4000, 8),
    },
    Job {
        name: "put-16k-1",
        rows: &["put-16k-1", "put-16k-1-space"],
        parts: SINGLE,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-16k-1", 16000, 1),
    },
    Job {
        name: "put-16k-8",
        rows: &["put-16k-8", "put-16k-8-space"],
        parts: MANY,
        environment: &[],
        run: |context, figures| puts::run(context, figures, "put-16k-8", 16000, 8),
    },
    Job {
        name: "load-random",
        rows: &["load-random", "load-random-space"],
        parts: STORES,
        environment: &[],
        run: |context, figures| loads::run(context, figures, "load-random", false),
    },
    Job {
        name: "load-sorted",
        rows: &["load-sorted"],
        parts: STORES,
        environment: &[],
        run: |context, figures| loads::run(context, figures, "load-sorted", true),
    },
    Job {
        name: "reads",
        rows: &["get-1", "get-2", "get-100", "scan-100", "scan-full"],
        parts: STORES,
        environment: &[],
        run: reads::run,
    },
    Job {
        name: "ycsb",
        rows: &["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-f"],
        parts: STORES,
        environment: &[],
        run: ycsb::run_buffered,
    },
    Job {
        name: "ycsb-e",
        rows: &["ycsb-e"],
        parts: STORES,
        environment: &[],
        run: ycsb::run_scans,
    },
    Job {
        name: "ycsb-durable",
        rows: &["ycsb-a-durable", "ycsb-b-durable"],
        parts: MANY_READ,
        environment: &[],
        run: ycsb::run_durable,
    },
    Job {
        name: "powerset",
        rows: &[
            "powerset-load",
            "powerset-warm-1",
            "powerset-warm-2",
            "powerset-cold-1",
            "powerset-cold-8",
            "powerset-overwrite",
            "powerset-delete",
            "powerset-refill",
            "powerset-device",
            "powerset-space-load",
            "powerset-space-overwrite",
            "powerset-space-delete",
            "powerset-space-refill",
        ],
        parts: SINGLE,
        environment: &[],
        run: powerset::run,
    },
    Job {
        name: "powerset-16",
        rows: &["powerset-load-16"],
        parts: SINGLE,
        environment: &[],
        run: powerset::run_batches,
    },
    Job {
        name: "put-get-140k",
        rows: &["put-get-140k"],
        parts: STORES,
        environment: &[],
        run: |context, figures| puts::run_put_get(context, figures, "put-get-140k", 140 << 10),
    },
    Job {
        name: "put-get-150",
        rows: &["put-get-150"],
        parts: STORES,
        environment: &[],
        run: |context, figures| puts::run_put_get(context, figures, "put-get-150", 150),
    },
    Job {
        name: "kill9",
        rows: &["kill9-open"],
        parts: STORES,
        environment: &[],
        run: crash::run,
    },
    Job {
        name: "memory",
        rows: &[
            "memory-load",
            "memory-get-1",
            "memory-get-16",
            "memory-ycsb-a",
            "memory-ycsb-b",
            "memory-ycsb-e",
        ],
        parts: &[Ours, Other, NeverFlushes, Variant],
        environment: memory::MALLOC,
        run: memory::run,
    },
    Job {
        name: "diff",
        rows: &[
            "diff-0",
            "diff-1",
            "diff-100",
            "diff-1000",
            "diff-10000",
            "diff-range",
            "diff-1-cpu",
            "diff-1000-cpu",
            "diff-10000-messages",
        ],
        parts: &[Ours],
        environment: &[],
        run: diff::run,
    },
];

/// Puts the values numbered by `numbers`, a thousand a commit, version 0. Stops at `deadline` and
/// says how many there are then.
fn load(
    store: &dyn Rival,
    numbers: impl Iterator<Item = u64>,
    length: usize,
    keep: Keep,
    deadline: Option<Instant>,
) -> u64 {
    const AT_ONCE: usize = 1000;
    let mut session = store.session();
    let mut keys = Vec::with_capacity(AT_ONCE);
    let mut values = vec![Vec::with_capacity(length); AT_ONCE];
    let mut numbers = numbers.peekable();
    let mut loaded = 0;
    while numbers.peek().is_some() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        keys.clear();
        for (number, value) in numbers.by_ref().take(AT_ONCE).zip(&mut values) {
            data::fill(value, number, 0, length);
            keys.push(data::key(number));
        }
        let pairs = keys.iter().zip(&values);
        let changes: Vec<Change<'_>> = pairs.map(|(key, value)| Change::Put(key, value)).collect();
        session.write(&changes, keep);
        loaded += keys.len() as u64;
    }
    loaded
}

/// What a thread does again and again; says how many operations it was.
type Operation<'a> = Box<dyn FnMut(&mut dyn Session, &mut Numbers) -> u64 + Send + 'a>;

/// Lets `threads` sessions do `operation` until `span` is over. Returns operations per second,
/// where one call may count as many.
fn run_threads<'a>(
    store: &dyn Rival,
    threads: usize,
    span: Duration,
    seed: u64,
    make: impl Fn(usize) -> Operation<'a>,
) -> f64 {
    let done = AtomicU64::new(0);
    let barrier = std::sync::Barrier::new(threads + 1);
    let mut took = Duration::ZERO;
    thread::scope(|scope| {
        for thread in 0..threads {
            let mut operation = make(thread);
            let (done, barrier) = (&done, &barrier);
            scope.spawn(move || {
                let mut session = store.session();
                let mut numbers = Numbers::new(seed ^ (thread as u64) << 32);
                barrier.wait();
                let end = Instant::now() + span;
                let mut mine = 0;
                let mut calls = 0u32;
                loop {
                    mine += operation(session.as_mut(), &mut numbers);
                    calls += 1;
                    // A fast operation asks for the time rarely.
                    if (calls & 7 == 0 || calls < 64) && Instant::now() >= end {
                        break;
                    }
                }
                done.fetch_add(mine, Ordering::Relaxed);
                barrier.wait();
            });
        }
        barrier.wait();
        let begin = Instant::now();
        barrier.wait();
        took = begin.elapsed();
    });
    done.load(Ordering::Relaxed) as f64 / took.as_secs_f64()
}
