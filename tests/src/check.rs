//! One history and all its crashes.
//!
//! The history runs once on a recording disk. Then, for the end of each of its epochs, every
//! image that the limits ask for is reopened, dumped, compared with the model and audited. Some
//! of those openings are recorded in turn, work on a little ("the next write works"), and are
//! crashed themselves, twice nested.

use crate::history::{Epoch, History, Pick};
use crate::image::{Image, Rot};
use crate::images::{Limits, pictures};
use crate::model::{Contents, Expected, Ledger};
use crate::rng::Rng;
use crate::sim_disk::SimDisk;
use crate::subject::{Env, RotPlace, Run, Subject};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How thoroughly a history is crashed.
#[derive(Debug, Clone, Copy)]
pub struct Thoroughness {
    /// Of the history itself.
    pub limits: Limits,
    /// One epoch of the history in so many is crashed; the last one always.
    pub epoch_one_in: u64,
    /// Of crashes within a recovery.
    pub nested: Limits,
    /// One image in so many is reopened on a recording disk, worked on, and crashed again.
    pub nested_one_in: u64,
    /// How many crashes follow the first: 2 is a crash in the recovery from a crash in a recovery.
    pub depth: u32,
    /// Whether creating the store is crashed too.
    pub creation: bool,
    /// One epoch in so many is tried with each rotten place; 0 for none.
    pub rot_one_in: u64,
    /// One image in so many is tried again with one rotten place; 0 for none.
    pub rot_image_one_in: u64,
}

impl Thoroughness {
    /// For random histories.
    pub const RANDOM: Self = Self {
        limits: Limits::RANDOM,
        epoch_one_in: 1,
        nested: Limits::NESTED,
        nested_one_in: 32,
        depth: 2,
        creation: false,
        rot_one_in: 64,
        rot_image_one_in: 8,
    };

    /// For histories that are exhausted.
    pub const WHOLE: Self = Self {
        limits: Limits::WHOLE,
        nested_one_in: 96,
        rot_one_in: 1,
        ..Self::RANDOM
    };
}

/// A broken promise and how it came about.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The promise.
    pub what: String,
    /// The crashes that led there, outermost first, and the work between them.
    pub crashes: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {}", self.what)?;
        for crash in &self.crashes {
            writeln!(f, "  {crash}")?;
        }
        Ok(())
    }
}

/// Why a history was left early.
#[derive(Debug)]
pub enum Stop {
    /// A promise was broken.
    Violation(Violation),
    /// Enough states were tried, or another thread found a violation.
    Enough,
}

/// Counts states for all threads and says when to stop.
#[derive(Debug)]
pub struct Meter {
    states: AtomicU64,
    goal: u64,
    stop: AtomicBool,
}

impl Meter {
    /// Stops after about `goal` states.
    pub fn new(goal: u64) -> Self {
        Self {
            states: AtomicU64::new(0),
            goal,
            stop: AtomicBool::new(false),
        }
    }

    /// States so far.
    pub fn states(&self) -> u64 {
        self.states.load(Ordering::Relaxed)
    }

    /// Stops all threads at their next state.
    pub fn halt(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether it is time to stop.
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) -> Result<(), Stop> {
        if self.is_over() {
            return Err(Stop::Enough);
        }
        if self.states.fetch_add(1, Ordering::Relaxed) + 1 >= self.goal {
            self.halt();
        }
        Ok(())
    }
}

/// Runs `ops` on a fresh store and crashes it everywhere.
pub fn check_history<S: Subject>(
    ops: &[S::Op],
    how: &Thoroughness,
    seed: u64,
    bug: Option<usize>,
    meter: &Meter,
) -> Result<(), Stop> {
    let mut rng = Rng::new(seed);
    let disk = SimDisk::recording(Image::empty(S::SECTOR));
    let mut run = Run {
        env: Env::new(disk, rng.number(), bug),
        ledger: Ledger::of_nothing(),
    };
    let live = guarded(|| {
        let created = run.ledger.create(0);
        let mut subject = S::create(&run.env)?;
        run.acknowledge(created);
        let made = run.env.disk.position();
        work(&mut subject, ops, &mut run)?;
        Ok(made)
    });
    let made = live.map_err(|what| {
        Stop::Violation(Violation {
            what: format!("without any crash: {what}"),
            crashes: Vec::new(),
        })
    })?;
    let from = if how.creation { 0 } else { made };
    crash_history::<S>(
        &run.env.disk.history(),
        from,
        &run.ledger,
        how,
        rng,
        bug,
        meter,
    )
}

/// Does `ops` and compares what a reader then sees with the model.
fn work<S: Subject>(subject: &mut S, ops: &[S::Op], run: &mut Run) -> Result<(), String> {
    for op in ops {
        subject
            .run_op(op, run)
            .map_err(|what| format!("{op:?}: {what}"))?;
    }
    let contents = subject.dump()?;
    if run.ledger.newest() != Some(&contents) {
        run.ledger.now().check(&contents)?;
        return Err("a reader does not see the newest batch".into());
    }
    subject.audit()
}

/// Crashes a history of a subject wherever it ended an epoch at `from` or later.
pub(crate) fn crash_history<S: Subject>(
    history: &History,
    from: usize,
    ledger: &Ledger,
    how: &Thoroughness,
    rng: Rng,
    bug: Option<usize>,
    meter: &Meter,
) -> Result<(), Stop> {
    let mut crasher = Crasher {
        how,
        bug,
        meter,
        rng,
        subject: std::marker::PhantomData::<S>,
    };
    crasher.crash(history, from, ledger, how.depth)
}

struct Crasher<'a, S> {
    how: &'a Thoroughness,
    bug: Option<usize>,
    meter: &'a Meter,
    rng: Rng,
    subject: std::marker::PhantomData<S>,
}

impl<S: Subject> Crasher<'_, S> {
    /// Crashes a history at the end of each epoch that ends at `from` or later.
    fn crash(
        &mut self,
        history: &History,
        from: usize,
        ledger: &Ledger,
        depth: u32,
    ) -> Result<(), Stop> {
        let outermost = depth == self.how.depth;
        let limits = if outermost {
            self.how.limits
        } else {
            self.how.nested
        };
        let epochs = history.epochs();
        let promises = ledger.at_ends(epochs.iter().map(|epoch| epoch.end));
        for (epoch, expected) in epochs.iter().zip(&promises) {
            if epoch.end < from {
                continue;
            }
            let last = epoch.end == history.len();
            if outermost && !last && !self.rng.one_in(self.how.epoch_one_in) {
                continue;
            }
            let mut stop = None;
            let mut draws = self.rng.fork();
            let rotten = outermost && self.how.rot_image_one_in > 0;
            let _ = pictures(epoch, &limits, &mut draws, &mut |picks| {
                let image = epoch.image(picks);
                let rot = rotten && self.rng.one_in(self.how.rot_image_one_in);
                let spoiled = rot.then(|| image.clone());
                let mut tried = self
                    .reopen(image, expected, depth)
                    .map_err(|why| with_story(why, epoch, picks, None));
                if let (Ok(()), Some(image)) = (&tried, spoiled) {
                    let mut places = S::rot_places(image.size(), &mut self.rng);
                    // The first two more often: they are the slots, which name all the rest.
                    let few = self.rng.one_in(2);
                    let most = if few {
                        2.min(places.len())
                    } else {
                        places.len()
                    };
                    let place = places.swap_remove(self.rng.index(most));
                    tried = self.rot_at(epoch, picks, &image, &place, expected);
                }
                match tried {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(why) => {
                        stop = Some(why);
                        ControlFlow::Break(())
                    }
                }
            });
            if let Some(stop) = stop {
                return Err(stop);
            }
            if self.how.rot_one_in > 0 && outermost && self.rng.one_in(self.how.rot_one_in) {
                self.rot(epoch, expected)?;
            }
        }
        Ok(())
    }

    /// Opens a crashed disk and compares it with what was promised.
    fn reopen(&mut self, image: Image, expected: &Expected, depth: u32) -> Result<(), Stop> {
        self.meter.count()?;
        let nested = depth > 0 && self.rng.one_in(self.how.nested_one_in);
        let disk = if nested {
            SimDisk::recording(image)
        } else {
            SimDisk::of(image)
        };
        let env = Env::new(disk, self.rng.number(), self.bug);
        let mut worked = String::new();
        let opened = guarded(|| {
            let (mut subject, contents) = match open_and_dump::<S>(&env) {
                Ok(opened) => opened,
                Err(_) if expected.allows_no_store() => return Ok(None),
                Err(what) => return Err(what),
            };
            if !nested {
                return expected.check(&contents).map(|()| None);
            }
            let mut run = Run {
                env: env.clone(),
                ledger: Ledger::resume(expected.clone()),
            };
            run.show(&contents)?;
            let ops: Vec<S::Op> = (0..self.rng.below(3))
                .map(|_| S::op(self.rng.index(S::KINDS.len()), &mut self.rng))
                .collect();
            worked = format!("reopened, then {ops:?}");
            work(&mut subject, &ops, &mut run)
                .map_err(|what| format!("the work after recovery: {what}"))?;
            Ok(Some(run.ledger))
        });
        match opened {
            Ok(None) => Ok(()),
            Ok(Some(ledger)) => self
                .crash(&env.disk.history(), 0, &ledger, depth - 1)
                .map_err(|why| match why {
                    Stop::Violation(mut violation) => {
                        violation.crashes.insert(0, worked);
                        Stop::Violation(violation)
                    }
                    Stop::Enough => Stop::Enough,
                }),
            Err(what) => Err(Stop::Violation(Violation {
                what,
                crashes: if worked.is_empty() {
                    vec![]
                } else {
                    vec![worked]
                },
            })),
        }
    }

    /// Spoils each place of a disk that was cut off.
    fn rot(&mut self, epoch: &Epoch<'_>, expected: &Expected) -> Result<(), Stop> {
        for pick in [Pick::New, Pick::Old] {
            let picks = vec![pick; epoch.atoms.len()];
            let image = epoch.image(&picks);
            for place in S::rot_places(image.size(), &mut self.rng) {
                self.rot_at(epoch, &picks, &image, &place, expected)?;
            }
        }
        Ok(())
    }

    /// Spoils one place: refused or right, never wrong.
    fn rot_at(
        &mut self,
        epoch: &Epoch<'_>,
        picks: &[Pick],
        image: &Image,
        place: &RotPlace,
        expected: &Expected,
    ) -> Result<(), Stop> {
        self.meter.count()?;
        let (rotten, rot) = self.spoil(image, place);
        let expected = if place.may_lose_last_ack {
            &expected.without_last_ack()
        } else {
            expected
        };
        let env = Env::new(SimDisk::of(rotten), self.rng.number(), self.bug);
        let seen = guarded(|| {
            let subject = match S::open(&env) {
                Ok(subject) => subject,
                Err(refusal) if place.at_opening && !S::is_honest(&refusal) => {
                    return Err(format!("refused for another reason: {refusal}"));
                }
                Err(_) => return Ok(()),
            };
            match dump_and_audit(subject) {
                Ok((_, contents)) => expected.check(&contents),
                Err(what) if place.at_opening => Err(what),
                Err(_) => Ok(()),
            }
        });
        seen.map_err(|what| {
            let crashes = Vec::new();
            let why = Stop::Violation(Violation { what, crashes });
            let rot = format!("{} rots ({rot:?})", place.name);
            with_story(why, epoch, picks, Some(&rot))
        })
    }

    fn spoil(&mut self, image: &Image, place: &RotPlace) -> (Image, Rot) {
        let seed = u32::try_from(self.rng.number() >> 32).expect("32 bits");
        let rot = match seed % 4 {
            0 => Rot::Zeros,
            1 => Rot::Noise(seed),
            2 => Rot::Flip(seed),
            _ => Rot::Unreadable,
        };
        let mut image = image.clone();
        for range in &place.ranges {
            let sector = image.sector() as u64;
            let mut at = range.start - range.start % sector;
            while at < range.end {
                image.rot(at, rot);
                at += sector;
            }
        }
        (image, rot)
    }
}

pub(crate) fn open_and_dump<S: Subject>(env: &Env) -> Result<(S, Contents), String> {
    let subject = S::open(env).map_err(|what| format!("refused: {what}"))?;
    dump_and_audit(subject)
}

fn dump_and_audit<S: Subject>(mut subject: S) -> Result<(S, Contents), String> {
    let contents = subject.dump().map_err(|what| format!("reading: {what}"))?;
    subject.audit().map_err(|what| format!("audit: {what}"))?;
    Ok((subject, contents))
}

fn with_story(why: Stop, epoch: &Epoch<'_>, picks: &[Pick], rot: Option<&str>) -> Stop {
    match why {
        Stop::Enough => Stop::Enough,
        Stop::Violation(mut violation) => {
            let mut crash = format!("crash {}", epoch.describe(picks));
            if let Some(rot) = rot {
                crash.push_str("; then ");
                crash.push_str(rot);
            }
            violation.crashes.insert(0, crash);
            Stop::Violation(violation)
        }
    }
}

/// How the report of a panic begins.
pub(crate) const PANIC: &str = "panicked: ";

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static MESSAGE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `work` and makes an error of a panic, which the engine promises not to do whatever is on
/// the disk.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                MESSAGE.set(info.to_string());
            } else {
                usual(info);
            }
        }));
    });
    GUARDED.set(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    result.unwrap_or_else(|_| Err(format!("{PANIC}{}", MESSAGE.take())))
}
