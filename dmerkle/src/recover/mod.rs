//! What a crash left: which superblock to open, and what of the log lives.
//!
//! Pure functions over [`ReadAt`]; the engine and the inspector call the same ones. In order:
//! [`read_superblocks`], [`choose`], [`scan`]. None of them writes.
//!
//! Invariants of the verdict, each one tried by the tests beside:
//!
//! 1. *An acknowledged batch is handed out or the verdict is corrupt.* A bad block at LSN `x` is
//!    torn only if no live claim says that the log was durable beyond `x`. Claims are the
//!    `durable` of valid blocks behind `x`, the first LSNs of later incarnations, and the
//!    superblock's own `cut` and `durable`.
//! 2. *What is handed out is a prefix of the history.* Batches come in order, from blocks that
//!    follow each other without a gap; the first bad block ends them.
//! 3. *The dead stay dead.* An opening that began at LSN `s` has decided that nothing older stands
//!    at or above `s`: no block of an older incarnation at or above `s`, and no batch of one that
//!    ends above `s`, is replayed or believed. Its `durable` claims nothing. (Its stamp still
//!    does: a generation that was durable once was durable.)
//! 4. *Evidence is found where it can be.* At most 16 MiB of log are ever written past what is
//!    durable, so the first block that can claim a bad one stands within the next 16 MiB (counted
//!    from the end of its group, if one group is longer); a live stretch farther away is
//!    contiguous, and one block in every 64 KiB finds it.
//! 5. *Doubt is corruption.* Where two faults at once leave no single story (a later incarnation
//!    turns up that began below what was handed out already), the verdict is corrupt, never torn.

mod incarnations;
mod ring;
mod scan;
mod superblocks;

pub use scan::{BatchAt, Scan, ScanInput, Tail, scan};
pub use superblocks::{
    Choice, CopyFault, NotAStore, Refusal, Superblocks, choose, read_superblocks,
};

/// The sectors asked for cannot be read: the disk says so, or the file ends before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// A store's file, for reading only. Offsets and lengths are multiples of 512, else anything.
pub trait ReadAt {
    /// Fills `buf` with the bytes at `offset`, all of it or none.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable>;

    /// Bytes of the file.
    fn len(&self) -> u64;

    /// Whether the file has no byte.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf`, one piece of `size` bytes for each of `offsets`, and zeros a piece that cannot
    /// be read. One after the other here; who can read in parallel should.
    fn read_many(&self, offsets: &[u64], size: usize, buf: &mut [u8]) {
        for (&offset, piece) in offsets.iter().zip(buf.chunks_exact_mut(size)) {
            if self.read_at(offset, piece).is_err() {
                piece.fill(0);
            }
        }
    }
}
