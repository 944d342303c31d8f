//! What the store may hold, after what was acknowledged and what was under way.
//!
//! The log orders all commits by their LSN, and a crash may take only a suffix of it. So what is
//! known of a commit is its LSN; what must be there is everything up to the largest LSN that was
//! acknowledged as durable; and what else is there must be a prefix of the rest. A step that was
//! issued and not acknowledged has no known LSN: it is there or not, after the worker's others.
//!
//! Memory: a version for each key, and the commits since the last durable acknowledgement.
//!
//! Invariants:
//! - A worker's keys are its own and its steps follow one another, so they become visible in order.
//! - `settled` holds what every key has at `durable`; `pending` what was acknowledged above it.

use crate::content::{Shape, Version};
use crate::load::{Change, Load, Step, Steps};
use crate::look;
use engine::{Durability, Store};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Write};
use std::iter::Peekable;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// Counts over all rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Durable commits acknowledged.
    pub durable: u64,
    /// Buffered commits acknowledged.
    pub buffered: u64,
    /// Bytes of values in both.
    pub bytes: u64,
    /// Buffered commits that a crash took.
    pub buffered_lost: u64,
    /// Writes that the disk had no space for.
    pub full: u64,
}

/// What the store held when it was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Entries.
    pub entries: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The versions that each key may have, where that is more than one.
pub(crate) type Contested = BTreeMap<(u32, u32), BTreeSet<u64>>;

/// A commit that was acknowledged.
#[derive(Debug, Clone)]
struct Commit {
    lsn: u64,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Worker {
    settled: Vec<Version>,
    steps: Option<Peekable<std::iter::Enumerate<Steps>>>,
    pending: VecDeque<Commit>,
}

/// See the module.
#[derive(Debug)]
pub struct Expected {
    /// The run's shape.
    pub shape: Shape,
    /// Counts over all rounds.
    pub tally: Tally,
    workers: Vec<Worker>,
    durable: u64,
    /// Whether the store of this round opened.
    opened: bool,
    /// Whether the store was ever open: from then on its file must be there.
    created: bool,
    /// What the disk or the machine refused.
    trouble: Option<String>,
}

impl Expected {
    /// Nothing was written yet.
    pub fn new(shape: Shape) -> Self {
        let worker = || Worker {
            settled: vec![Version::ABSENT; shape.keys as usize],
            steps: None,
            pending: VecDeque::new(),
        };
        Self {
            shape,
            tally: Tally::default(),
            workers: (0..shape.workers).map(|_| worker()).collect(),
            durable: 0,
            opened: false,
            created: false,
            trouble: None,
        }
    }

    /// A child is about to start.
    pub fn begin(&mut self, load: &Load) {
        assert_eq!(load.shape, self.shape, "a run has one shape");
        self.opened = false;
        self.trouble = None;
        for (worker, state) in (0..).zip(&mut self.workers) {
            assert!(state.pending.is_empty(), "the last round was settled");
            state.steps = Some(load.steps(worker).enumerate().peekable());
        }
    }

    /// Whether the child has the store open.
    pub fn is_open(&self) -> bool {
        self.opened
    }

    /// What the disk or the machine refused in this round.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Takes a line of the child. One that does not count tells what was issued, and in what order;
    /// it raises no claim that it survived.
    pub fn hear(&mut self, line: &str, counts: bool) -> Result<(), Violation> {
        if let Some(what) = line.strip_prefix('!') {
            return Err(Violation(what.to_owned()));
        }
        let mut words = line.splitn(4, ' ');
        let kind = words.next().unwrap_or_default();
        if kind == "o" {
            self.opened = true;
            self.created |= counts;
            return Ok(());
        }
        if kind == "e" {
            if counts {
                self.trouble = Some(line[1..].trim().to_owned());
            }
            return Ok(());
        }
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
        let (worker, step) = (number(), number());
        let place = worker.zip(step).and_then(|(worker, step)| {
            Some((u32::try_from(worker).ok()?, usize::try_from(step).ok()?))
        });
        let rest = words.next().unwrap_or_default();
        let issued = place.and_then(|(worker, step)| {
            let worker = self.workers.get_mut(worker as usize)?;
            let looked = |(index, passed): &(usize, Step)| *index < step && passed.is_look();
            while worker.steps.as_mut()?.next_if(looked).is_some() {}
            let next = worker.steps.as_mut()?.peek()?;
            (next.0 == step).then(|| next.1.clone())
        });
        let strange = || {
            Violation(format!(
                "the child wrote a line that makes no sense: {line}"
            ))
        };
        let ((worker, _), issued) = place.zip(issued).ok_or_else(strange)?;
        match kind {
            "a" => {
                let lsn = rest.parse().map_err(|_| strange())?;
                self.pass(worker);
                self.acknowledged(worker, issued, lsn, counts);
            }
            "n" => {
                self.pass(worker);
                self.tally.full += 1;
            }
            // What it did is not known, so it stays the one that was issued.
            "x" if counts => self.trouble = Some(rest.to_owned()),
            "x" => {}
            _ => return Err(strange()),
        }
        Ok(())
    }

    fn pass(&mut self, worker: u32) {
        if let Some(steps) = &mut self.workers[worker as usize].steps {
            steps.next();
        }
    }

    fn acknowledged(&mut self, worker: u32, step: Step, lsn: u64, counts: bool) {
        let durable = match step {
            Step::Write {
                changes,
                durability,
            } => {
                let durable = durability == Durability::Durable;
                if counts {
                    let bytes = changes
                        .iter()
                        .map(|change| self.shape.bytes(worker, change.key, change.version));
                    self.tally.bytes += bytes.sum::<u64>();
                    self.tally.durable += u64::from(durable);
                    self.tally.buffered += u64::from(!durable);
                }
                let pending = &mut self.workers[worker as usize].pending;
                pending.push_back(Commit { lsn, changes });
                durable
            }
            Step::Flush => true,
            Step::Checkpoint | Step::Look(_) => false,
        };
        if durable && counts {
            self.durable = self.durable.max(lsn);
        }
        self.settle_durable();
    }

    /// What a crash cannot take any more needs not be remembered one by one.
    fn settle_durable(&mut self) {
        for worker in &mut self.workers {
            while let Some(commit) = worker.pending.pop_front_if(|next| next.lsn <= self.durable) {
                apply(&mut worker.settled, &commit.changes);
            }
        }
    }

    /// Compares with what is left after the child's end, and takes it for what the next round
    /// begins with. No store: none was made yet.
    pub fn settle(&mut self, store: Option<&Store>) -> Result<Held, Violation> {
        let Some(store) = store else {
            if self.created {
                return Err(Violation("the store's file is gone".into()));
            }
            // What did not count was made and is gone with the file.
            self.workers
                .iter_mut()
                .for_each(|worker| worker.pending.clear());
            return Ok(Held::default());
        };
        let contested = self.contested();
        let settled = |worker: u32, key: u32| self.workers[worker as usize].settled[key as usize];
        let looked = look::look(&self.shape, store, &contested, &settled)?;
        self.fit(&looked.possible)?;
        self.workers
            .iter_mut()
            .for_each(|worker| worker.steps = None);
        Ok(looked.held)
    }

    /// The keys that may have more than one version, and which.
    fn contested(&mut self) -> Contested {
        let mut contested = Contested::new();
        for (number, worker) in (0..).zip(&mut self.workers) {
            let issued = worker.issued().unwrap_or_default();
            let pending = worker.pending.iter().flat_map(|commit| &commit.changes);
            for change in pending.chain(&issued) {
                let settled = worker.settled[change.key as usize].0;
                let versions = contested.entry((number, change.key)).or_default();
                versions.extend([settled, change.version.0]);
            }
        }
        contested
    }

    /// Finds a place in the log up to which everything is there and behind which nothing is.
    /// `possible` says which of the contested versions each key's bytes are.
    fn fit(&mut self, possible: &Contested) -> Result<(), Violation> {
        let fits: Vec<Vec<bool>> = (0..)
            .zip(&mut self.workers)
            .map(|(number, worker)| worker.fits(number, possible))
            .collect();
        let mut places: Vec<u64> = self
            .workers
            .iter()
            .flat_map(|worker| worker.pending.iter().map(|commit| commit.lsn))
            .chain([self.durable])
            .collect();
        places.sort_unstable();
        let is_cut = |place: u64| {
            self.workers.iter().zip(&fits).all(|(worker, fits)| {
                let there = worker.there(place);
                fits[there] || (there == worker.pending.len() && fits[there + 1])
            })
        };
        // The lowest that fits: new commits have LSNs above the log's end, which fits, too.
        let Some(cut) = places.into_iter().find(|place| is_cut(*place)) else {
            return Err(self.explain(&fits, possible));
        };
        for (worker, fits) in self.workers.iter_mut().zip(fits) {
            let there = worker.there(cut);
            self.tally.buffered_lost += (worker.pending.len() - there) as u64;
            let issued = (!fits[there]).then(|| worker.issued().unwrap_or_default());
            for commit in worker.pending.drain(..there) {
                apply(&mut worker.settled, &commit.changes);
            }
            worker.pending.clear();
            apply(&mut worker.settled, &issued.unwrap_or_default());
        }
        self.durable = cut;
        Ok(())
    }

    /// Says why nothing fits.
    fn explain(&self, fits: &[Vec<bool>], possible: &Contested) -> Violation {
        let mut told = format!(
            "what is there is no prefix of what was committed; durable up to LSN {}",
            self.durable
        );
        for ((number, worker), fits) in (0..).zip(&self.workers).zip(fits) {
            let at: Vec<usize> = (0..fits.len()).filter(|&at| fits[at]).collect();
            let _ = write!(
                told,
                "\nworker {number}: {} commits acknowledged above that and one under way; fits \
                 after {at:?} of them",
                worker.pending.len()
            );
            if at.is_empty() {
                for ((_, key), versions) in possible.range((number, 0)..=(number, u32::MAX)) {
                    let there: Vec<_> = versions.iter().copied().map(Version).collect();
                    let _ = write!(told, "\n  key {key}: the bytes are those of {there:?}");
                }
            }
        }
        Violation(told)
    }
}

impl Worker {
    /// What was issued and not acknowledged, if anything was.
    fn issued(&mut self) -> Option<Vec<Change>> {
        let steps = self.steps.as_mut()?;
        while steps.next_if(|(_, step)| step.is_look()).is_some() {}
        match &steps.peek()?.1 {
            Step::Write { changes, .. } => Some(changes.clone()),
            _ => None,
        }
    }

    /// How many of the pending commits lie at or below a place in the log.
    fn there(&self, place: u64) -> usize {
        self.pending
            .iter()
            .filter(|commit| commit.lsn <= place)
            .count()
    }

    /// Whether the keys' bytes fit after 0, 1, ... pending commits, and after the issued one.
    fn fits(&mut self, number: u32, possible: &Contested) -> Vec<bool> {
        let keys = possible.range((number, 0)..=(number, u32::MAX));
        let mut has: BTreeMap<u32, Version> = keys
            .map(|((_, key), _)| (*key, self.settled[*key as usize]))
            .collect();
        let fits = |key: u32, version: Version| possible[&(number, key)].contains(&version.0);
        let mut wrong = has
            .iter()
            .filter(|(key, version)| !fits(**key, **version))
            .count();
        let mut after = vec![wrong == 0];
        let issued = self.issued().unwrap_or_default();
        let commits = self.pending.iter().map(|commit| &commit.changes);
        for changes in commits.chain([&issued]) {
            for change in changes {
                let old = has.insert(change.key, change.version);
                wrong -= usize::from(old.is_some_and(|old| !fits(change.key, old)));
                wrong += usize::from(!fits(change.key, change.version));
            }
            after.push(wrong == 0);
        }
        after
    }
}

impl Step {
    fn is_look(&self) -> bool {
        matches!(self, Self::Look(_))
    }
}

fn apply(settled: &mut [Version], changes: &[Change]) {
    for change in changes {
        settled[change.key as usize] = change.version;
    }
}

#[cfg(test)]
mod tests;
