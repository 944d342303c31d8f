//! Many histories on all threads, from one seed.
//!
//! First every history of up to `exhaust` operations out of the subject's kinds, then random ones
//! until the states are enough. A history depends on the run's seed and its own number alone, so
//! that the report of a violation can be repeated; the shortest history that shows it is looked
//! for by leaving out operations.

use crate::check::{Meter, Stop, Thoroughness, Violation, check_history};
use crate::rng::Rng;
use crate::subject::Subject;
use crate::sweep::{Sweep, full_disk};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct Campaign {
    /// The seed of everything.
    pub seed: u64,
    /// States of random histories to try; the exhausted ones come on top.
    pub states: u64,
    /// Try every history of up to so many operations.
    pub exhaust: u32,
    /// Only the history of this number, as a report names it.
    pub only: Option<u64>,
    /// The planted bug to run with.
    pub bug: Option<usize>,
    /// Threads.
    pub threads: usize,
    /// Whether to show no progress.
    pub quiet: bool,
}

/// What came of it.
pub struct Outcome<S: Subject> {
    /// States tried.
    pub states: u64,
    /// Histories tried.
    pub histories: u64,
    /// How long it took, the search for a shorter history left out.
    pub took: Duration,
    /// The violation, if there was one.
    pub found: Option<Found<S>>,
}

/// A violation with the history that shows it.
pub struct Found<S: Subject> {
    /// The run's seed.
    pub seed: u64,
    /// Which history of the run.
    pub history: u64,
    /// The shortest history that was found to show it.
    pub ops: Vec<S::Op>,
    /// What it shows.
    pub violation: Violation,
}

/// How long the search for a shorter history may take; of a planted bug only its length is shown.
const SHRINK: Duration = Duration::from_secs(5);
const SHRINK_PLANTED: Duration = Duration::from_secs(1);

/// How often progress is shown.
const PROGRESS: Duration = Duration::from_secs(5);

/// A store that gives no state for so long hangs: a state takes a fraction of a millisecond.
const HANG: Duration = Duration::from_mins(1);

/// How long a planted fault is looked for. On a quiet machine each is caught within 10 seconds; a
/// busy one must not make a tooth look missing.
const GIVE_UP: Duration = Duration::from_secs(40);

/// Operations of a random history, at most.
const RANDOM_OPS: u64 = 10;

/// One random history in so many is not crashed as it is, but has a fault at each operation in turn,
/// and three run on a disk that gets full.
const TRIAL_ONE_IN: u64 = 64;

struct History<S: Subject> {
    ops: Vec<S::Op>,
    how: Thoroughness,
    trial: Trial,
    seed: u64,
}

/// What is done to a history.
enum Trial {
    /// It is crashed.
    Crash,
    /// Each of its disk operations fails in turn.
    Faults(Sweep),
    /// Its file system is full after so many bytes more.
    Full(u64),
}

impl<S: Subject> History<S> {
    fn check(
        &self,
        ops: &[S::Op],
        seed: u64,
        bug: Option<usize>,
        meter: &Meter,
    ) -> Result<(), Stop> {
        match self.trial {
            Trial::Faults(sweep) => sweep.run::<S>(ops, seed, bug, meter).map(|_| ()),
            Trial::Full(bytes) => full_disk::<S>(bytes, ops, seed, bug, meter).map(|_| ()),
            Trial::Crash => check_history::<S>(ops, &self.how, seed, bug, meter),
        }
    }
}

/// The kinds that a random history draws from: mostly a few of all, because what takes three kinds
/// in a row hardly ever comes when there are twenty.
fn some_kinds(kinds: usize, rng: &mut Rng) -> Vec<usize> {
    if rng.one_in(4) {
        return (0..kinds).collect();
    }
    let count = 2 + rng.index(5);
    (0..count).map(|_| rng.index(kinds)).collect()
}

impl Campaign {
    /// On two threads, quiet.
    pub fn new(seed: u64, states: u64) -> Self {
        Self {
            seed,
            states,
            exhaust: 0,
            only: None,
            bug: None,
            threads: 2,
            quiet: true,
        }
    }

    /// How many histories `exhaust` means.
    fn exhaustive<S: Subject>(&self) -> u64 {
        let kinds = S::EXHAUSTED_KINDS as u64;
        match self.exhaust {
            0 => 0,
            most => (0..=most).map(|length| kinds.pow(length)).sum(),
        }
    }

    /// The history of a number.
    fn history<S: Subject>(&self, number: u64) -> History<S> {
        let mut rng = Rng::new(self.seed.wrapping_mul(0x9e37_79b9).wrapping_add(number));
        let exhaustive = self.exhaustive::<S>();
        let kinds = S::EXHAUSTED_KINDS as u64;
        if number >= exhaustive {
            let length = rng.below(RANDOM_OPS) + 1;
            let kinds = some_kinds(S::KINDS.len(), &mut rng);
            let ops = (0..length)
                .map(|_| S::op(kinds[rng.index(kinds.len())], &mut rng))
                .collect();
            let mut how = Thoroughness::RANDOM;
            how.creation = rng.one_in(32);
            // What goes wrong without a crash, or with any, wants many histories.
            how.epoch_one_in = [1, 4, 12][rng.index(3)];
            if rng.one_in(64) {
                how.limits = Thoroughness::WHOLE.limits;
            }
            let sweeps = Sweep::all();
            let trial = match rng.below(TRIAL_ONE_IN) {
                0 => Trial::Faults(sweeps[rng.index(sweeps.len())]),
                1..4 => Trial::Full(rng.below(1 << 17)),
                _ => Trial::Crash,
            };
            return History {
                ops,
                how,
                trial,
                seed: rng.number(),
            };
        }
        let (mut length, mut left) = (0, number);
        while left >= kinds.pow(length) {
            left -= kinds.pow(length);
            length += 1;
        }
        let ops = (0..length)
            .map(|_| {
                let kind = usize::try_from(left % kinds).expect("a kind");
                left /= kinds;
                S::op(kind, &mut rng)
            })
            .collect();
        let mut how = Thoroughness::WHOLE;
        how.creation = length == 0;
        History {
            ops,
            how,
            trial: Trial::Crash,
            seed: rng.number(),
        }
    }

    /// Runs it.
    pub fn run<S: Subject>(&self) -> Outcome<S> {
        let started = Instant::now();
        let exhaustive = self.exhaustive::<S>();
        // The exhausted histories are tried to their end, whatever number of states they have.
        let (first, random) = (Meter::new(u64::MAX), Meter::new(self.states));
        let next = AtomicU64::new(0);
        let found: Mutex<Option<(u64, Violation)>> = Mutex::new(None);
        let running: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());
        let work = || {
            while !first.is_over() {
                let number = match self.only {
                    None => next.fetch_add(1, Ordering::Relaxed),
                    Some(only) if next.fetch_add(1, Ordering::Relaxed) == 0 => only,
                    Some(_) => break,
                };
                let meter = if number < exhaustive { &first } else { &random };
                if meter.is_over() || (number >= exhaustive && self.states == 0) {
                    break;
                }
                let history = self.history::<S>(number);
                running.lock().insert(number);
                let checked = history.check(&history.ops, history.seed, self.bug, meter);
                running.lock().remove(&number);
                if let Err(Stop::Violation(violation)) = checked {
                    first.halt();
                    random.halt();
                    // The lowest number of those found at the same time, for a stable report.
                    let mut found = found.lock();
                    if found.as_ref().is_none_or(|(other, _)| number < *other) {
                        *found = Some((number, violation));
                    }
                }
            }
        };
        let states = || first.states() + random.states();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            let mut shown = started;
            let mut seen = (0, started);
            while !workers
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished)
            {
                std::thread::sleep(Duration::from_millis(20));
                if !self.quiet && shown.elapsed() >= PROGRESS {
                    shown = Instant::now();
                    let histories = next.load(Ordering::Relaxed);
                    let seconds = started.elapsed().as_secs();
                    let mut line =
                        format!("{seconds:>5} s  {} states  {histories} histories", states());
                    if exhaustive > 0 {
                        let _ = write!(
                            line,
                            "  {} of {exhaustive} exhausted",
                            histories.min(exhaustive)
                        );
                    }
                    eprintln!("{line}");
                }
                let now = states();
                if now != seen.0 {
                    seen = (now, Instant::now());
                } else if seen.1.elapsed() >= HANG {
                    let running = running.lock().clone();
                    eprintln!(
                        "no state in {HANG:?}: seed {}, histories {running:?} hang",
                        self.seed
                    );
                    std::process::exit(3);
                }
            }
        });
        let took = started.elapsed();
        let found = found
            .into_inner()
            .map(|(number, violation)| self.shrink(number, violation));
        Outcome {
            states: states(),
            histories: next.load(Ordering::Relaxed),
            took,
            found,
        }
    }

    /// Leaves out operations while some crash of what is left still breaks a promise.
    fn shrink<S: Subject>(&self, number: u64, violation: Violation) -> Found<S> {
        let history = self.history::<S>(number);
        let mut found = Found {
            seed: self.seed,
            history: number,
            ops: history.ops.clone(),
            violation,
        };
        let started = Instant::now();
        let most = if self.bug.is_some() {
            SHRINK_PLANTED
        } else {
            SHRINK
        };
        let try_ops = |ops: Vec<S::Op>, found: &mut Found<S>| {
            // What shows depends on chance: many seeds each.
            for attempt in 0..32 {
                if started.elapsed() > most {
                    return false;
                }
                let meter = Meter::new(200_000);
                let seed = history.seed.wrapping_add(attempt);
                let checked = history.check(&ops, seed, self.bug, &meter);
                if let Err(Stop::Violation(violation)) = checked {
                    found.ops = ops;
                    found.violation = violation;
                    return true;
                }
            }
            false
        };
        let mut at = found.ops.len();
        while at > 0 {
            at -= 1;
            let mut fewer = found.ops.clone();
            fewer.remove(at);
            if try_ops(fewer, &mut found) {
                at = found.ops.len();
            }
        }
        found
    }
}

impl<S: Subject> fmt::Display for Found<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "violation: seed {}, history {}", self.seed, self.history)?;
        for (at, op) in self.ops.iter().enumerate() {
            writeln!(f, "  operation {}: {op:?}", at + 1)?;
        }
        self.violation.fmt(f)
    }
}

/// Tries every planted bug, each for forty seconds at most, and prints a table. Says whether all were caught.
pub fn planted<S: Subject>(seed: u64, threads: usize) -> bool {
    let width = S::BUGS.iter().map(|name| name.len()).max().unwrap_or(0);
    println!(
        "{:width$}  {:>10}  {:>7}  operations",
        "bug", "states", "seconds"
    );
    let mut all = true;
    for (bug, name) in S::BUGS.iter().enumerate() {
        let mut states = 0;
        let mut took = Duration::ZERO; // the search for a shorter history left out
        let mut caught = None;
        // In slices, so that a limit of time is one whatever the machine's speed.
        let mut slice = 0;
        while caught.is_none() && took < GIVE_UP {
            let campaign = Campaign {
                bug: Some(bug),
                threads,
                ..Campaign::new(seed.wrapping_add(slice), 50_000)
            };
            let outcome = campaign.run::<S>();
            states += outcome.states;
            took += outcome.took;
            slice += 1;
            caught = outcome.found;
        }
        let line = match &caught {
            Some(found) => found.ops.len().to_string(),
            None => "NOT CAUGHT".to_owned(),
        };
        let seconds = took.as_secs_f64();
        println!("{name:width$}  {states:>10}  {seconds:>7.2}  {line}");
        all &= line != "NOT CAUGHT";
    }
    all
}
