//! Every bit of a store: whatever is damaged, right bytes or an error that names the block.
//!
//! Two parts. [`pure`] flips each bit of each structure before the pure decoder that the engine
//! reads it with. The rest damages the file of a whole store ([`mutants`]), opens it and reads
//! everything; [`oracle`] states what it may answer, [`anatomy`] what that follows from.
//!
//! Each damaged store is opened on a simulated disk of its own, whose pages it shares with the
//! sound one.

pub mod anatomy;
pub mod mutants;
pub mod oracle;
pub mod pure;
pub mod specimen;

pub use anatomy::Kind;

use crate::allocations::Allocations;
use crate::rng::Rng;
use engine::planted::{self, Bug};
use mutants::{KINDS, Mutant};
use oracle::{FATES, Sound, sound, try_one, try_sealed};
use parking_lot::Mutex;
use specimen::{Specimen, specimens};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What to try.
#[derive(Debug, Clone, Copy)]
pub struct Bits {
    /// The seed of everything.
    pub seed: u64,
    /// Every bit, instead of one of each 64 bytes.
    pub every_bit: bool,
    /// One damage in so many, and one structure in so many; 1 for all.
    pub one_in: usize,
    /// Threads.
    pub threads: usize,
    /// Whether to show no progress.
    pub quiet: bool,
    /// The planted bug to run with.
    pub bug: Option<Bug>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// Bits of structures flipped before their decoders.
    pub flips: u64,
    /// Damaged stores by kind of damage and fate.
    pub fates: [[u64; FATES.len()]; KINDS.len()],
    /// Damage that changed nothing, and was not tried.
    pub idle: u64,
    /// The most that any damaged store allocated, and the largest file.
    pub allocations: Allocations,
    /// Bytes of the largest file.
    pub file_bytes: u64,
    /// The first broken promises.
    pub violations: Vec<String>,
}

/// Broken promises that are kept for the report.
const VIOLATIONS_MAX: usize = 20;

/// A damaged store takes about a millisecond; one that takes so long hangs.
const HANG: Duration = Duration::from_mins(1);

impl Report {
    /// Damaged stores that were opened.
    pub fn stores(&self) -> u64 {
        self.fates.iter().flatten().sum()
    }

    fn add(&mut self, other: &Self) {
        self.flips += other.flips;
        self.idle += other.idle;
        let all = self.fates.iter_mut().flatten();
        all.zip(other.fates.iter().flatten())
            .for_each(|(sum, more)| *sum += more);
        let (most, other_most) = (&mut self.allocations, other.allocations);
        most.largest_bytes = most.largest_bytes.max(other_most.largest_bytes);
        most.peak_bytes = most.peak_bytes.max(other_most.peak_bytes);
        self.file_bytes = self.file_bytes.max(other.file_bytes);
        self.violations.extend(other.violations.iter().cloned());
        self.violations.truncate(VIOLATIONS_MAX);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "bits of structures flipped before their decoders: {}",
            self.flips
        )?;
        write!(f, "{:18}", "damage")?;
        for fate in FATES {
            write!(f, " {fate:>9}")?;
        }
        writeln!(f)?;
        for (kind, fates) in KINDS.iter().zip(&self.fates) {
            write!(f, "{kind:18}")?;
            for count in fates {
                write!(f, " {count:>9}")?;
            }
            writeln!(f)?;
        }
        let taken = self.allocations;
        write!(
            f,
            "largest allocation {} bytes, most at once {} bytes, largest file {} bytes",
            taken.largest_bytes, taken.peak_bytes, self.file_bytes
        )
    }
}

impl Bits {
    /// Tries all of it; an error if the sound stores are not sound.
    pub fn run(&self) -> Result<Report, String> {
        let specimens = specimens(self.seed)?;
        let mut report = Report::default();
        for specimen in &specimens {
            let flipped = pure::flip_all(specimen, self.one_in);
            report.flips += flipped.flips;
            report.violations.extend(flipped.violations);
            report.add(&self.damage(specimen)?);
        }
        Ok(report)
    }

    fn damage(&self, specimen: &Specimen) -> Result<Report, String> {
        let mut rng = Rng::new(self.seed);
        let mut mutants = mutants::all(specimen, self.every_bit, &mut rng);
        if self.one_in > 1 {
            mutants.retain(|_| rng.one_in(self.one_in as u64));
        }
        let sound = sound(specimen).map_err(|what| format!("{}, sound: {what}", specimen.name))?;
        if !self.quiet {
            eprintln!(
                "a store {}: {} bytes, {} entries, {} damages, {} reads to open and read it all",
                specimen.name,
                specimen.image.size(),
                specimen
                    .states
                    .last()
                    .map_or(0, |state| state.values().map(BTreeMap::len).sum()),
                mutants.len(),
                sound.operations,
            );
        }
        let total = Mutex::new(Report {
            file_bytes: specimen.image.size(),
            ..Report::default()
        });
        let (next, done, over) = (
            AtomicUsize::new(0),
            AtomicU64::new(0),
            AtomicBool::new(false),
        );
        std::thread::scope(|scope| {
            let work = || {
                let mut report = Report::default();
                // What the thread itself keeps is made before anything is measured.
                let own = oracle::sound(specimen).unwrap_or_default();
                planted::plant(self.bug);
                while !over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = mutants.get(number) else {
                        break;
                    };
                    report.try_mutant(specimen, &own, *mutant);
                    done.fetch_add(1, Ordering::Relaxed);
                    if report.violations.len() >= VIOLATIONS_MAX {
                        over.store(true, Ordering::Relaxed);
                    }
                }
                total.lock().add(&report);
            };
            let workers: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            self.watch(&workers, &done, mutants.len());
        });
        Ok(total.into_inner())
    }

    /// Shows progress, and ends the program if there is none.
    fn watch(
        &self,
        workers: &[std::thread::ScopedJoinHandle<'_, ()>],
        done: &AtomicU64,
        of: usize,
    ) {
        let mut seen = (0, Instant::now());
        let mut shown = Instant::now();
        while !workers
            .iter()
            .all(std::thread::ScopedJoinHandle::is_finished)
        {
            std::thread::sleep(Duration::from_millis(10));
            let now = done.load(Ordering::Relaxed);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() >= HANG {
                eprintln!(
                    "seed {}: a damaged store hangs, after {now} of {of}",
                    self.seed
                );
                std::process::exit(3);
            }
            if !self.quiet && shown.elapsed() >= Duration::from_secs(5) {
                shown = Instant::now();
                eprintln!("  {now} of {of}");
            }
        }
    }
}

impl Report {
    fn try_mutant(&mut self, specimen: &Specimen, sound: &Sound, mutant: Mutant) {
        let Some((image, damaged)) = mutant.apply(specimen) else {
            self.idle += 1;
            return;
        };
        let tried = if mutant.is_sealed() {
            try_sealed(specimen, sound, image)
        } else {
            try_one(specimen, sound, image, &damaged)
        };
        match tried {
            Ok((fate, taken)) => {
                self.fates[mutant.kind()][fate as usize] += 1;
                let most = &mut self.allocations;
                most.largest_bytes = most.largest_bytes.max(taken.largest_bytes);
                most.peak_bytes = most.peak_bytes.max(taken.peak_bytes);
            }
            Err(what) => {
                let sector = damaged.first().copied().unwrap_or(0);
                let kind = specimen.anatomy.kind(sector);
                let what = format!("{}, {mutant:?} ({kind:?}): {what}", specimen.name);
                self.violations.push(what);
            }
        }
    }
}
