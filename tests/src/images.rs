//! Which fates an epoch's atoms are tried with.
//!
//! - At most [`Limits::exhaustive_atoms`] atoms: every subset; with garbage in every place too
//!   where that still fits the same count, else one garbled atom at a time among old, new and
//!   random neighbours.
//! - More: nothing, everything, every prefix of whole operations (what a kill leaves), every
//!   subset of whole operations if they are few, each atom alone dropped, each alone kept, and
//!   random picks of several densities with a little garbage.
//!
//! All of it depends on the epoch and the seed alone.

use crate::history::{Effect, Epoch, Pick};
use crate::image::Rot;
use crate::rng::Rng;
use std::ops::ControlFlow;

/// How far the enumeration of one epoch goes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All subsets of at most so many atoms.
    pub exhaustive_atoms: usize,
    /// Past that, about so many images of the epoch.
    pub sampled: usize,
}

impl Limits {
    /// What the promise names: every subset of up to 12 atoms.
    pub const WHOLE: Self = Self {
        exhaustive_atoms: 12,
        sampled: 192,
    };

    /// Of a random history: more histories instead of more images of each.
    pub const RANDOM: Self = Self {
        exhaustive_atoms: 4,
        sampled: 20,
    };

    /// Of a crash inside a recovery.
    pub const NESTED: Self = Self {
        exhaustive_atoms: 3,
        sampled: 12,
    };
}

/// Calls `visit` with one fate per atom for each image, until it breaks.
pub fn pictures(
    epoch: &Epoch<'_>,
    limits: &Limits,
    rng: &mut Rng,
    visit: &mut dyn FnMut(&[Pick]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let live: Vec<usize> = (0..epoch.atoms.len())
        .filter(|&at| !epoch.atoms[at].idle)
        .collect();
    let mut album = Album {
        epoch,
        live,
        picks: vec![Pick::New; epoch.atoms.len()],
        rng,
        visit,
    };
    if album.live.len() <= limits.exhaustive_atoms {
        album.exhaust(1 << limits.exhaustive_atoms)
    } else {
        album.sample(limits.sampled)
    }
}

struct Album<'e, 'v> {
    epoch: &'e Epoch<'e>,
    /// The atoms that are not idle.
    live: Vec<usize>,
    picks: Vec<Pick>,
    rng: &'v mut Rng,
    visit: &'v mut dyn FnMut(&[Pick]) -> ControlFlow<()>,
}

impl Album<'_, '_> {
    fn show(&mut self) -> ControlFlow<()> {
        (self.visit)(&self.picks)
    }

    fn set_all(&mut self, pick: Pick) {
        for &at in &self.live {
            self.picks[at] = pick;
        }
    }

    /// Garbles an atom; lengths and holes are journaled by the file system and are not garbled.
    fn garble(&mut self, at: usize) {
        if let Effect::Sector { .. } = self.epoch.atoms[at].effect {
            self.picks[at] = garbage(self.rng);
        }
    }

    fn exhaust(&mut self, budget: usize) -> ControlFlow<()> {
        let atoms = self.live.len();
        let with_garbage = 3usize.pow(u32::try_from(atoms.min(12)).expect("at most 12"));
        if with_garbage <= budget {
            for number in 0..with_garbage {
                let mut digits = number;
                for index in 0..atoms {
                    let at = self.live[index];
                    match digits % 3 {
                        0 => self.picks[at] = Pick::Old,
                        1 => self.picks[at] = Pick::New,
                        _ if matches!(self.epoch.atoms[at].effect, Effect::Sector { .. }) => {
                            self.picks[at] = garbage(self.rng);
                        }
                        // This one cannot be garbled: the same image was or will be shown.
                        _ => break,
                    }
                    digits /= 3;
                    if index + 1 == atoms {
                        self.show()?;
                    }
                }
                if atoms == 0 {
                    self.show()?;
                }
            }
        } else {
            for number in 0..1usize << atoms {
                for index in 0..atoms {
                    let kept = number >> index & 1 == 1;
                    self.picks[self.live[index]] = if kept { Pick::New } else { Pick::Old };
                }
                self.show()?;
            }
            for index in 0..atoms {
                for neighbours in [Some(Pick::Old), Some(Pick::New), None] {
                    match neighbours {
                        Some(pick) => self.set_all(pick),
                        None => self.random(1, 2, usize::MAX),
                    }
                    self.garble(self.live[index]);
                    self.show()?;
                }
            }
        }
        self.garble_idle()
    }

    /// One atom that changes nothing may still be garbled.
    fn garble_idle(&mut self) -> ControlFlow<()> {
        if self.live.len() == self.picks.len() {
            return ControlFlow::Continue(());
        }
        let idle: Vec<usize> = (0..self.picks.len())
            .filter(|&at| self.epoch.atoms[at].idle)
            .collect();
        let at = idle[self.rng.index(idle.len())];
        self.random(1, 2, usize::MAX);
        self.garble(at);
        self.show()?;
        self.picks[at] = Pick::New;
        ControlFlow::Continue(())
    }

    fn sample(&mut self, budget: usize) -> ControlFlow<()> {
        let atoms = self.live.len();
        self.set_all(Pick::Old);
        self.show()?;
        self.set_all(Pick::New);
        self.show()?;
        self.whole_operations(budget / 4)?;
        let each = budget / 8;
        for (all, one) in [(Pick::New, Pick::Old), (Pick::Old, Pick::New)] {
            self.set_all(all);
            for number in 0..atoms.min(each) {
                // Every atom if the budget allows, else a random choice of them.
                let index = if atoms <= each {
                    number
                } else {
                    self.rng.index(atoms)
                };
                let at = self.live[index];
                self.picks[at] = one;
                self.show()?;
                self.picks[at] = all;
            }
        }
        for _ in 0..budget / 2 {
            let crash = if self.rng.one_in(2) {
                usize::MAX
            } else {
                self.rng.index(atoms) + 1
            };
            let density = [(1, 8), (1, 2), (7, 8)][self.rng.index(3)];
            self.random(density.0, density.1, crash);
            if self.rng.one_in(2) {
                for _ in 0..=self.rng.below(2) {
                    let index = self.rng.index(atoms.min(crash));
                    self.garble(self.live[index]);
                }
            }
            self.show()?;
        }
        self.garble_idle()
    }

    /// Keeps each live atom before the `crash`-th with probability `kept / of`, none after it.
    fn random(&mut self, kept: u64, of: u64, crash: usize) {
        for index in 0..self.live.len() {
            let new = index < crash && self.rng.below(of) < kept;
            self.picks[self.live[index]] = if new { Pick::New } else { Pick::Old };
        }
    }

    fn whole_operations(&mut self, budget: usize) -> ControlFlow<()> {
        let mut ops: Vec<usize> = self
            .live
            .iter()
            .map(|&at| self.epoch.atoms[at].op)
            .collect();
        ops.dedup();
        let all = ops.len() < 12 && 1 << ops.len() <= budget;
        let count = if all {
            1usize << ops.len()
        } else {
            ops.len().min(budget)
        };
        for number in 0..count {
            for index in 0..self.live.len() {
                let at = self.live[index];
                let op = ops
                    .binary_search(&self.epoch.atoms[at].op)
                    .expect("made from the same atoms");
                let kept = if all {
                    number >> op & 1 == 1
                } else {
                    // Prefixes, spread over all of them if they are more than the budget.
                    op < (number + 1) * ops.len() / count
                };
                self.picks[at] = if kept { Pick::New } else { Pick::Old };
            }
            self.show()?;
        }
        ControlFlow::Continue(())
    }
}

/// A way in which a sector in flight goes bad.
fn garbage(rng: &mut Rng) -> Pick {
    let seed = u32::try_from(rng.number() >> 32).expect("32 bits");
    match seed % 8 {
        0..=2 => Pick::Torn,
        3 | 4 => Pick::Garbage(Rot::Noise(seed)),
        5 => Pick::Garbage(Rot::Zeros),
        6 => Pick::Garbage(Rot::Flip(seed)),
        _ => Pick::Garbage(Rot::Unreadable),
    }
}

#[cfg(test)]
mod tests;
