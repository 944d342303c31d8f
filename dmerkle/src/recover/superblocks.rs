//! Which superblock a store opens from.
//!
//! Invariants: the newer slot is the larger (incarnation, generation), and of a slot's two copies
//! the newer counts. If a slot has no readable copy it may have been the newer one: then the other
//! is opened only if no valid block of the whole ring is stamped with a generation above its own.
//! The next superblock goes to the slot *not* opened from, whatever the numbers say.

use super::ReadAt;
use super::ring::sweep;
use crate::error::{Corrupt, Fault, Place, Structure};
use crate::format::superblock::{
    IncarnationStart, SUPERBLOCK_BYTES, Slot, Superblock, has_magic, newer_version,
};
use crate::geometry::SUPERBLOCK_OFFSETS;
use crate::types::{Generation, Incarnation};
use core::fmt;

/// What is wrong with a copy of a superblock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFault {
    /// Its bytes are not a superblock of this slot.
    Corrupt(Corrupt),
    /// Its sector cannot be read.
    Unreadable,
}

/// All four copies, at least one of them valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblocks {
    /// The copies in the order of their offsets: A, B, A, B.
    pub copies: [Result<Superblock, CopyFault>; 4],
}

/// Why a file cannot be read as a store at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAStore {
    /// Nothing but zeros where the superblocks belong (or no byte at all): its creation never
    /// ended, or it was never begun.
    Blank,
    /// Some other kind of file.
    Foreign,
    /// A store of a version that this code does not know.
    NewerVersion(u32),
    /// A store all of whose superblocks are damaged.
    Damaged(Box<[CopyFault; 4]>),
}

/// Why a store with a valid superblock must not be opened from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The slot that cannot be read held a newer generation, and what only the readable one names
    /// may have been overwritten since.
    NewerGenerationLost {
        /// The slot that cannot be read.
        lost: Slot,
        /// What the readable slot holds.
        generation: Generation,
        /// A generation that a log block knows to have been durable.
        stamp: Generation,
    },
    /// The two slots belong to different stores.
    TwoStores,
}

/// The superblock to open from, and what follows from the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What it says.
    pub superblock: Superblock,
    /// Where it stands.
    pub slot: Slot,
    /// The slot that the next superblock goes to.
    pub write_next: Slot,
    /// The largest incarnation met so far; with the scan's, the next one is one above.
    pub incarnation: Incarnation,
    /// Later incarnations that the ring knows of, when the slot that named them is lost. For
    /// [`super::ScanInput::starts`].
    pub starts: Vec<IncarnationStart>,
}

/// Reads the four copies.
pub fn read_superblocks(read: &dyn ReadAt) -> Result<Superblocks, NotAStore> {
    let mut blank = true;
    let mut magic = false;
    let mut version = None;
    let mut copy = |index: usize| {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        let offset = SUPERBLOCK_OFFSETS[index];
        let in_file = read.len().saturating_sub(offset);
        let in_file =
            usize::try_from(in_file).map_or(SUPERBLOCK_BYTES, |n| n.min(SUPERBLOCK_BYTES));
        if in_file > 0 && read.read_at(offset, &mut bytes[..in_file]).is_err() {
            // A sector that cannot be read may hold a store.
            blank = false;
            magic = true;
            return Err(CopyFault::Unreadable);
        }
        if in_file < SUPERBLOCK_BYTES {
            // What is past the file's end is none; what stands before it may be another file's.
            blank &= bytes.iter().all(|&byte| byte == 0);
            magic |= has_magic(&bytes);
            return Err(CopyFault::Unreadable);
        }
        blank &= bytes.iter().all(|&byte| byte == 0);
        magic |= has_magic(&bytes);
        version = version.max(newer_version(&bytes));
        let at = |corrupt: Corrupt| CopyFault::Corrupt(corrupt.at(Place::Byte(offset)));
        match Superblock::decode(&bytes) {
            Ok((superblock, slot)) if slot == Slot::of_copy(index) => Ok(superblock),
            Ok(_) => Err(at(Corrupt::new(
                Structure::Superblock,
                Fault::Rule("a copy of the other slot stands here"),
            ))),
            Err(corrupt) => Err(at(corrupt)),
        }
    };
    let copies = [copy(0), copy(1), copy(2), copy(3)];
    if let Some(version) = version {
        return Err(NotAStore::NewerVersion(version));
    }
    if copies.iter().any(Result::is_ok) {
        return Ok(Superblocks { copies });
    }
    if blank {
        return Err(NotAStore::Blank);
    }
    if !magic {
        return Err(NotAStore::Foreign);
    }
    let fault = |copy: Result<Superblock, CopyFault>| copy.err().unwrap_or(CopyFault::Unreadable);
    Err(NotAStore::Damaged(Box::new(copies.map(fault))))
}

impl Superblocks {
    /// What a slot says: the newer of its valid copies.
    pub fn slot(&self, slot: Slot) -> Option<&Superblock> {
        let copies = slot.copies().map(|copy| self.copies[copy].as_ref().ok());
        copies.into_iter().flatten().max_by_key(|copy| copy.age())
    }
}

/// Chooses the superblock to open from. Reads the whole ring if, and only if, a slot is lost.
pub fn choose(read: &dyn ReadAt, superblocks: &Superblocks) -> Result<Choice, Refusal> {
    let (a, b) = (superblocks.slot(Slot::A), superblocks.slot(Slot::B));
    let (superblock, slot) = match (a, b) {
        (Some(a), Some(b)) if b.age() > a.age() => (b, Slot::B),
        (None, Some(b)) => (b, Slot::B),
        (Some(a), _) => (a, Slot::A),
        (None, None) => unreachable!("`read_superblocks` found a valid copy"),
    };
    let mut choice = Choice {
        superblock: superblock.clone(),
        slot,
        write_next: slot.other(),
        incarnation: superblock.incarnation,
        starts: Vec::new(),
    };
    let valid = superblocks.copies.iter().flatten();
    if !valid.clone().all(|copy| copy.same_store(superblock)) {
        return Err(Refusal::TwoStores);
    }
    if a.is_none() || b.is_none() {
        let (geometry, nonce) = (&superblock.geometry, superblock.nonce);
        let found = sweep(read, geometry, nonce, superblock.incarnation);
        if found.stamp > superblock.generation {
            return Err(Refusal::NewerGenerationLost {
                lost: slot.other(),
                generation: superblock.generation,
                stamp: found.stamp,
            });
        }
        choice.incarnation = choice.incarnation.max(found.incarnation);
        choice.starts.extend(found.later.iter().copied());
    }
    Ok(choice)
}

impl fmt::Display for CopyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(corrupt) => corrupt.fmt(f),
            Self::Unreadable => f.write_str("its sector cannot be read"),
        }
    }
}

impl fmt::Display for NotAStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => f.write_str("the file is empty: no store was created in it"),
            Self::Foreign => f.write_str("the file is not a Dynomite store"),
            Self::NewerVersion(version) => write!(
                f,
                "the store has format version {version}, newer than this program reads: \
                 use the program that wrote it, or its export"
            ),
            Self::Damaged(faults) => {
                f.write_str("all four superblocks of the store are damaged")?;
                for (copy, fault) in faults.iter().enumerate() {
                    write!(f, "; copy {copy}: {fault}")?;
                }
                Ok(())
            }
        }
    }
}

impl core::error::Error for NotAStore {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NewerGenerationLost {
                lost,
                generation,
                stamp,
            } => write!(
                f,
                "superblock slot {lost:?} cannot be read and held generation {stamp} or newer; \
                 the other slot holds generation {generation}, parts of which may be overwritten"
            ),
            Self::TwoStores => f.write_str("the two superblock slots belong to different stores"),
        }
    }
}

impl core::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::Unreadable;

    struct File<'a>(&'a [u8]);

    impl ReadAt for File<'_> {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
            let from = usize::try_from(offset).map_err(|_| Unreadable)?;
            let bytes = self.0.get(from..from + buf.len()).ok_or(Unreadable)?;
            buf.copy_from_slice(bytes);
            Ok(())
        }

        fn len(&self) -> u64 {
            self.0.len() as u64
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_a_superblock_is_judged_by_what_it_has() {
        let judge = |bytes: &[u8]| read_superblocks(&File(bytes)).map(|_| ()).unwrap_err();
        assert_eq!(judge(b""), NotAStore::Blank);
        assert_eq!(judge(&[0; 100]), NotAStore::Blank);
        assert_eq!(judge(b"a text"), NotAStore::Foreign);
        assert_eq!(judge(&[7; SUPERBLOCK_BYTES - 1]), NotAStore::Foreign);
        assert_eq!(judge(&vec![7; 100_000]), NotAStore::Foreign);
    }
}
