//! What was done to a disk, and what a crash may leave of it.
//!
//! The fault model, as `engine::io::Disk` states it: what was written before a flush that returned
//! `Ok` is on the medium. Of what came after, any subset of its sectors is, each old, new, or (it
//! was in flight) garbage or unreadable; the file's length and punched holes likewise. A flush that
//! fails loses some of what was pending at once, as reads show from then on (direct I/O, no page
//! cache between); the rest stays pending.
//!
//! An [`Epoch`] is the time up to a flush. Its end, just before that flush returns, stands for
//! every crash within it: a crash earlier in the epoch leaves an image that the end can leave too
//! (later atoms being old), and what was promised by the end only grew. So the images are taken at
//! the ends alone.

use crate::image::{Image, Rot, index};
use std::collections::HashMap;
use std::sync::Arc;

/// One operation on a disk, as far as it matters to a crash.
#[derive(Debug, Clone)]
pub enum DiskOp {
    /// A write, or the part of a failed one that reached the medium.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// The file has this length now.
    Size(u64),
    /// Zeros, and the space given back.
    Punch {
        /// Where.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// A flush that returned `Ok`.
    Flush,
    /// A flush that returned an error, and what became of each atom that was pending then.
    FlushFailed(Vec<Pick>),
    /// The medium itself went bad, at once and durably.
    Rot {
        /// The sector.
        offset: u64,
        /// How.
        rot: Rot,
    },
}

/// A disk's first image and all that was done since.
#[derive(Clone)]
pub struct History {
    base: Image,
    ops: Vec<DiskOp>,
}

/// The smallest thing that survives a crash or does not.
#[derive(Debug, Clone, Copy)]
pub struct Atom<'a> {
    /// The operation that it is part of.
    pub op: usize,
    /// What it does.
    pub effect: Effect<'a>,
    /// Whether it changes nothing: the sector already holds these bytes, and no other atom says
    /// otherwise. Whether it survives makes no difference; that it is garbled would.
    pub idle: bool,
}

/// What an atom does to the medium.
#[derive(Debug, Clone, Copy)]
pub enum Effect<'a> {
    /// Writes one sector.
    Sector {
        /// Where.
        offset: u64,
        /// The new bytes.
        bytes: &'a [u8],
    },
    /// Makes the file this long.
    Size(u64),
    /// Punches this piece.
    Hole {
        /// Where.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
}

/// The state of a disk just before a flush returns (or at the end of the history).
pub struct Epoch<'a> {
    /// The operations issued so far: all before this index.
    pub end: usize,
    /// What is on the medium for certain.
    pub base: Image,
    /// What may be, in the order of issue.
    pub atoms: Vec<Atom<'a>>,
}

/// What became of an atom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// It never happened.
    Old,
    /// It is on the medium.
    New,
    /// The first half of the sector is new, the second old.
    Torn,
    /// The sector went bad while it was in flight.
    Garbage(Rot),
}

/// Pieces that a punched hole survives in: a journaling file system removes a long run of blocks
/// in several transactions, though not in one per sector.
const HOLE_PIECES: u64 = 3;

impl From<Image> for History {
    fn from(base: Image) -> Self {
        Self {
            base,
            ops: Vec::new(),
        }
    }
}

impl History {
    /// How many operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing was done.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds an operation.
    pub fn push(&mut self, op: DiskOp) {
        self.ops.push(op);
    }

    /// The operations.
    pub fn ops(&self) -> &[DiskOp] {
        &self.ops
    }

    /// Looks at the newest epoch, as if a crash came now.
    pub fn last_epoch<T>(&self, look: impl FnOnce(&Epoch<'_>) -> T) -> T {
        look(self.epochs().last().expect("there is always one"))
    }

    /// The epochs in order: one per flush, a failed one too, and what came after the last.
    pub fn epochs(&self) -> Vec<Epoch<'_>> {
        let sector = self.base.sector();
        let mut epochs = Vec::new();
        let mut base = self.base.clone();
        let mut atoms: Vec<Atom<'_>> = Vec::new();
        for (op, what) in self.ops.iter().enumerate() {
            let mut add = |effect| {
                atoms.push(Atom {
                    op,
                    effect,
                    idle: false,
                });
            };
            match what {
                DiskOp::Write { offset, bytes } => {
                    for (at, bytes) in bytes.chunks(sector).enumerate() {
                        let offset = offset + (at * sector) as u64;
                        add(Effect::Sector { offset, bytes });
                    }
                }
                DiskOp::Size(size) => add(Effect::Size(*size)),
                DiskOp::Punch { offset, bytes } => {
                    let sectors = bytes / sector as u64;
                    let piece = sectors.div_ceil(HOLE_PIECES).max(1) * sector as u64;
                    let mut done = 0;
                    while done < *bytes {
                        let offset = offset + done;
                        let bytes = piece.min(bytes - done);
                        add(Effect::Hole { offset, bytes });
                        done += bytes;
                    }
                }
                DiskOp::Flush => {
                    epochs.push(Epoch::new(op, &base, &atoms));
                    for atom in atoms.drain(..) {
                        atom.apply(&mut base, Pick::New);
                    }
                }
                DiskOp::FlushFailed(picks) => {
                    epochs.push(Epoch::new(op, &base, &atoms));
                    let mut picks = picks.iter();
                    atoms.retain(|_| picks.next() != Some(&Pick::Old));
                }
                DiskOp::Rot { offset, rot } => base.rot(*offset, *rot),
            }
        }
        epochs.push(Epoch::new(self.ops.len(), &base, &atoms));
        epochs
    }
}

impl<'a> Epoch<'a> {
    fn new(end: usize, base: &Image, atoms: &[Atom<'a>]) -> Self {
        let mut epoch = Self {
            end,
            base: base.clone(),
            atoms: atoms.to_vec(),
        };
        epoch.mark_idle();
        epoch
    }

    fn mark_idle(&mut self) {
        if self
            .atoms
            .iter()
            .any(|atom| matches!(atom.effect, Effect::Hole { .. }))
        {
            return;
        }
        let mut same: HashMap<u64, bool> = HashMap::with_capacity(self.atoms.len());
        for atom in &self.atoms {
            if let Effect::Sector { offset, bytes } = atom.effect {
                *same.entry(offset).or_insert(true) &= self.base.holds(offset, bytes);
            }
        }
        for atom in &mut self.atoms {
            if let Effect::Sector { offset, .. } = atom.effect {
                atom.idle = same[&offset];
            }
        }
    }

    /// The image that a crash leaves when each atom meets its pick.
    pub fn image(&self, picks: &[Pick]) -> Image {
        assert_eq!(picks.len(), self.atoms.len());
        let mut image = self.base.clone();
        // The length first: a sector past the end that survived is reachable only with it.
        for (atom, &pick) in self.atoms.iter().zip(picks) {
            if let (Effect::Size(size), Pick::New) = (atom.effect, pick) {
                image.set_size(size.max(image.size()));
            }
        }
        for (atom, &pick) in self.atoms.iter().zip(picks) {
            if pick != Pick::Old && !(atom.idle && pick == Pick::New) {
                atom.apply(&mut image, pick);
            }
        }
        image
    }

    /// Says in words which atoms met which fate.
    pub fn describe(&self, picks: &[Pick]) -> String {
        use std::fmt::Write as _;
        let mut text = format!("before disk operation {}: ", self.end);
        if self.atoms.is_empty() {
            text.push_str("nothing in flight");
        }
        let mut at = 0;
        while at < picks.len() {
            let atom = &self.atoms[at];
            let run = (at..picks.len())
                .take_while(|&i| picks[i] == picks[at] && self.atoms[i].op == atom.op)
                .count();
            let separator = if at == 0 { "" } else { ", " };
            let fate = match picks[at] {
                Pick::Old => "lost".to_owned(),
                Pick::New => "kept".to_owned(),
                Pick::Torn => "torn in half".to_owned(),
                Pick::Garbage(rot) => format!("{rot:?}").to_lowercase(),
            };
            let _ = match atom.effect {
                Effect::Sector { offset, bytes } => {
                    let bytes = run * bytes.len();
                    write!(text, "{separator}write of {bytes} at {offset} {fate}")
                }
                Effect::Size(size) => write!(text, "{separator}length {size} {fate}"),
                Effect::Hole { offset, bytes } => {
                    write!(text, "{separator}hole of {bytes} at {offset} {fate}")
                }
            };
            at += if matches!(atom.effect, Effect::Sector { .. }) {
                run
            } else {
                1
            };
        }
        text
    }
}

impl Atom<'_> {
    fn apply(&self, image: &mut Image, pick: Pick) {
        match self.effect {
            Effect::Sector { offset, bytes } => {
                let room = index(image.size().saturating_sub(offset));
                let bytes = &bytes[..bytes.len().min(room)];
                if bytes.is_empty() {
                    return;
                }
                match pick {
                    Pick::Old => {}
                    Pick::New => image.write(offset, bytes),
                    Pick::Torn => image.write(offset, &bytes[..bytes.len() / 2]),
                    Pick::Garbage(rot @ Rot::Flip(_)) => {
                        image.write(offset, bytes);
                        image.rot(offset, rot);
                    }
                    Pick::Garbage(rot) => image.rot(offset, rot),
                }
            }
            Effect::Size(size) => image.set_size(size.max(image.size())),
            Effect::Hole { offset, bytes } => image.zero(offset, bytes),
        }
    }
}

#[cfg(test)]
mod tests;
