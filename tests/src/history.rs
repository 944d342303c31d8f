//! What was done to a disk, and what a crash may leave of it.
//!
//! The fault model, as `engine::io::Disk` states it: what was written before a flush that returned
//! `Ok` is on the medium. Of what came after, any subset of its sectors is, each old, new, or (it
//! was in flight) garbage or unreadable; the file's length and punched holes likewise. After a
//! flush or a write that failed, its sectors stay uncertain until they are written and flushed
//! again, because the kernel may call the next flush a success all the same.
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
    /// A write; `failed` when the caller was told so.
    Write {
        /// Where.
        offset: u64,
        /// What.
        bytes: Arc<[u8]>,
        /// Whether it returned an error.
        failed: bool,
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
    /// A flush that returned an error.
    FlushFailed,
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
    failed: bool,
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

    /// The epochs in order: one per flush, failed ones included, and what came after the last.
    pub fn epochs(&self) -> Vec<Epoch<'_>> {
        let sector = self.base.sector();
        let mut epochs = Vec::new();
        let mut base = self.base.clone();
        let mut atoms: Vec<Atom<'_>> = Vec::new();
        // Atoms before this index were pending when a flush failed.
        let mut uncertain = 0;
        for (op, what) in self.ops.iter().enumerate() {
            let mut add = |effect, failed| {
                atoms.push(Atom {
                    op,
                    effect,
                    idle: false,
                    failed,
                });
            };
            match what {
                DiskOp::Write {
                    offset,
                    bytes,
                    failed,
                } => {
                    for (at, bytes) in bytes.chunks(sector).enumerate() {
                        let offset = offset + (at * sector) as u64;
                        add(Effect::Sector { offset, bytes }, *failed);
                    }
                }
                DiskOp::Size(size) => add(Effect::Size(*size), false),
                DiskOp::Punch { offset, bytes } => {
                    let sectors = bytes / sector as u64;
                    let piece = sectors.div_ceil(HOLE_PIECES).max(1) * sector as u64;
                    let mut done = 0;
                    while done < *bytes {
                        let offset = offset + done;
                        let bytes = piece.min(bytes - done);
                        add(Effect::Hole { offset, bytes }, false);
                        done += bytes;
                    }
                }
                DiskOp::Flush => {
                    epochs.push(Epoch::new(op, &base, &atoms));
                    let flushed = std::mem::take(&mut atoms);
                    for (index, atom) in flushed.into_iter().enumerate() {
                        if atom.failed || index < uncertain {
                            atoms.push(atom);
                        } else {
                            // What was uncertain below it no longer matters.
                            atoms.retain(|other| !atom.covers(other));
                            atom.apply(&mut base, Pick::New);
                        }
                    }
                    uncertain = atoms.len();
                }
                DiskOp::FlushFailed => {
                    epochs.push(Epoch::new(op, &base, &atoms));
                    uncertain = atoms.len();
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
    /// Whether it replaces all that the other one wrote.
    fn covers(&self, other: &Atom<'_>) -> bool {
        match (self.effect, other.effect) {
            (Effect::Sector { offset: a, .. }, Effect::Sector { offset: b, .. }) => a == b,
            (Effect::Hole { offset, bytes }, Effect::Sector { offset: b, .. }) => {
                (offset..offset + bytes).contains(&b)
            }
            _ => false,
        }
    }

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
