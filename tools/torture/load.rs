//! What each thread of the child writes in a round.
//!
//! Invariant: a round's steps follow from the run's shape and the round's number; the parent walks
//! through them while the acknowledgements come in, and so knows what was acknowledged, and what
//! was under way, without having been told more than numbers.

use crate::chance::Chance;
use crate::content::{Shape, Version};
use engine::{Backend, Durability, Options};

/// A round of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// What stays the same.
    pub shape: Shape,
    /// Which round, from 0.
    pub round: u32,
}

/// A key of a worker gets a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: u32,
    /// What it has then.
    pub version: Version,
}

/// What a worker does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One commit.
    Write {
        /// Each key once.
        changes: Vec<Change>,
        /// When it is acknowledged.
        durability: Durability,
    },
    /// Flushes what is buffered.
    Flush,
    /// Makes a checkpoint.
    Checkpoint,
    /// Reads a key that was written before in this round. Nobody is told.
    Look(Change),
}

impl Load {
    /// As one argument of a command line.
    pub fn to_argument(&self) -> String {
        let shape = &self.shape;
        format!(
            "{},{},{},{},{},{}",
            shape.seed,
            shape.workers,
            shape.keys,
            shape.value_bytes_max,
            shape.log_bytes,
            self.round
        )
    }

    /// From that argument.
    pub fn from_argument(argument: &str) -> Option<Self> {
        let numbers: Result<Vec<u64>, _> = argument.split(',').map(str::parse).collect();
        let [seed, workers, keys, value_bytes_max, log_bytes, round] = numbers.ok()?[..] else {
            return None;
        };
        Some(Self {
            shape: Shape {
                seed,
                workers: u32::try_from(workers).ok()?,
                keys: u32::try_from(keys).ok().filter(|&keys| keys > 0)?,
                value_bytes_max: u32::try_from(value_bytes_max).ok()?,
                log_bytes,
            },
            round: u32::try_from(round).ok()?,
        })
    }

    /// What is drawn once for a round.
    fn chance(&self, purpose: u64) -> Chance {
        Chance::new(self.shape.seed, &[u64::from(self.round), purpose])
    }

    /// How the store is opened: small buffers, and in one round of three checkpoints all the time.
    pub fn options(&self) -> Options {
        let mut chance = self.chance(1 << 40);
        Options {
            cache_bytes: 8 << 20,
            memtable_bytes: 1 << (18 + chance.below(5)),
            log_bytes: self.shape.log_bytes,
            checkpoint_ms: if chance.percent(33) { 1 } else { 60_000 },
            backend: if chance.percent(50) {
                Backend::Auto
            } else {
                Backend::Threads
            },
            ..Options::default()
        }
    }

    /// How many of a hundred commits of this round are durable.
    pub fn durable_percent(&self) -> u32 {
        let shares = [100, 80, 20, 1];
        shares[self.chance(2 << 40).below(4) as usize]
    }

    /// The steps of a worker, without end.
    pub fn steps(&self, worker: u32) -> Steps {
        Steps {
            load: *self,
            durable_percent: self.durable_percent(),
            chance: self.chance(u64::from(worker)),
            index: 0,
            recent: Vec::new(),
        }
    }
}

/// See [`Load::steps`].
#[derive(Debug, Clone)]
pub struct Steps {
    load: Load,
    durable_percent: u32,
    chance: Chance,
    index: u32,
    /// What was written last, to be read again.
    recent: Vec<Change>,
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let index = self.index;
        self.index = index.checked_add(1)?;
        let chance = &mut self.chance;
        let step = match chance.below(1000) {
            0..2 => Step::Flush,
            2 => Step::Checkpoint,
            3..100 if !self.recent.is_empty() => {
                let at = chance.below(u32::try_from(self.recent.len()).ok()?);
                Step::Look(self.recent[at as usize])
            }
            kind => {
                let count = if kind < 200 { 2 + chance.below(7) } else { 1 };
                let mut changes: Vec<Change> = Vec::new();
                for _ in 0..count {
                    let key = chance.below(self.load.shape.keys);
                    let deleted = chance.percent(15);
                    if changes.iter().all(|change| change.key != key) {
                        let version =
                            Version(u64::from(self.load.round + 1) << 32 | u64::from(index));
                        let version = if deleted { Version::ABSENT } else { version };
                        changes.push(Change { key, version });
                    }
                }
                let durability = if chance.percent(self.durable_percent) {
                    Durability::Durable
                } else {
                    Durability::Buffered
                };
                Step::Write {
                    changes,
                    durability,
                }
            }
        };
        if let Step::Write { changes, .. } = &step {
            self.recent
                .retain(|old| changes.iter().all(|new| new.key != old.key));
            self.recent.extend(changes);
            let surplus = self.recent.len().saturating_sub(16);
            self.recent.drain(..surplus);
        }
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        shape: Shape {
            seed: 3,
            workers: 2,
            keys: 50,
            value_bytes_max: 1000,
            log_bytes: 1 << 20,
        },
        round: 4,
    };

    #[test]
    fn a_load_comes_back_from_its_argument() {
        assert_eq!(Load::from_argument(&LOAD.to_argument()), Some(LOAD));
        for wrong in ["", "1,2,3", "1,2,0,4,5,6", "a,b,c,d,e,f", "1,2,3,4,5,6,7"] {
            assert_eq!(Load::from_argument(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn both_sides_walk_the_same_steps_and_every_kind_is_among_them() {
        let steps: Vec<Step> = LOAD.steps(1).take(5000).collect();
        assert!(LOAD.steps(1).zip(&steps).all(|(one, other)| one == *other));
        assert!(!LOAD.steps(0).zip(&steps).all(|(one, other)| one == *other));
        let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|step| wanted(step)).count();
        assert!(count(|step| *step == Step::Flush) > 0);
        assert!(count(|step| *step == Step::Checkpoint) > 0);
        assert!(count(|step| matches!(step, Step::Look(_))) > 100);
        assert!(
            count(|step| matches!(step, Step::Write { changes, .. } if changes.len() > 2)) > 100
        );
    }
}
