//! Reading the ring: in runs while the log is followed, whole when a superblock is lost.

use super::incarnations::Incarnations;
use super::{ReadAt, Unreadable};
use crate::format::log_block::{LogBlock, claim};
use crate::format::superblock::IncarnationStart;
use crate::geometry::Geometry;
use crate::types::{Generation, Incarnation, Lsn};

/// Bytes that are read at once.
const RUN_BYTES: u64 = 1 << 20;

/// A window onto the ring: one run of blocks, read at once. A block that cannot be read reads as
/// zeros, which no valid block is.
pub(super) struct Window<'r> {
    read: &'r dyn ReadAt,
    geometry: &'r Geometry,
    buf: Vec<u8>,
    first: Lsn,
}

impl<'r> Window<'r> {
    pub(super) fn new(read: &'r dyn ReadAt, geometry: &'r Geometry) -> Self {
        Self {
            read,
            geometry,
            buf: Vec::new(),
            first: Lsn(0),
        }
    }

    /// The bytes of the block at `lsn`, which is before `end`; a run is read up to `end` at most.
    pub(super) fn block(&mut self, lsn: Lsn, end: Lsn) -> &[u8] {
        let block_bytes = self.geometry.log_block_bytes as usize;
        let inside = lsn.0.checked_sub(self.first.0);
        let inside = inside.filter(|&past| past < self.buf.len() as u64);
        let at = if let Some(past) = inside {
            usize::try_from(past).expect("at most a run")
        } else {
            self.load(lsn, end);
            0
        };
        &self.buf[at..at + block_bytes]
    }

    fn load(&mut self, lsn: Lsn, end: Lsn) {
        let to_ring_end = self.geometry.ring_bytes - lsn.0 % self.geometry.ring_bytes;
        let offset = self.geometry.log_offset(lsn);
        // A file that was cut off asks for no more memory than it could fill, save one block.
        let block_bytes = u64::from(self.geometry.log_block_bytes);
        let in_file = self.read.len().saturating_sub(offset) / block_bytes * block_bytes;
        let bytes = to_ring_end
            .min(end.0 - lsn.0)
            .min(RUN_BYTES)
            .min(in_file.max(block_bytes));
        self.buf
            .resize(usize::try_from(bytes).expect("at most a run"), 0);
        self.first = lsn;
        if self.read.read_at(offset, &mut self.buf) == Err(Unreadable) {
            let block_bytes = self.geometry.log_block_bytes;
            let blocks = self.buf.chunks_exact_mut(block_bytes as usize);
            for (index, block) in (0u64..).zip(blocks) {
                let offset = offset + index * u64::from(block_bytes);
                if self.read.read_at(offset, block).is_err() {
                    block.fill(0);
                }
            }
        }
    }
}

/// What the whole ring says.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The largest stamp of any valid block, live or dead.
    pub(super) stamp: Generation,
    /// The largest incarnation of any valid block.
    pub(super) incarnation: Incarnation,
    /// The incarnations after the given one that wrote a valid block.
    pub(super) later: Incarnations,
}

/// Reads every block of the ring that the file has: of one that was cut off the rest says nothing.
pub(super) fn sweep(
    read: &dyn ReadAt,
    geometry: &Geometry,
    nonce: u64,
    incarnation: Incarnation,
) -> Sweep {
    let mut found = Sweep::default();
    let mut window = Window::new(read, geometry);
    let in_file = read.len().saturating_sub(geometry.ring_offset());
    let in_file = in_file.next_multiple_of(geometry.log_block_bytes.into());
    let end = Lsn(geometry.ring_bytes.min(in_file));
    let mut at = Lsn(0);
    while at < end {
        let bytes = window.block(at, end);
        if claim(bytes).is_some()
            && let Ok(block) = LogBlock::decode(bytes, nonce, geometry)
        {
            let group = &block.group;
            found.stamp = found.stamp.max(group.stamp);
            found.incarnation = found.incarnation.max(group.incarnation);
            if group.incarnation > incarnation {
                found.later.learn(IncarnationStart::of_group(group));
            }
        }
        at.0 += u64::from(geometry.log_block_bytes);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A file that counts what is asked of it, and holds nothing but zeros.
    struct Short {
        bytes: u64,
        reads: Cell<u64>,
    }

    impl ReadAt for Short {
        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
            self.reads.set(self.reads.get() + 1);
            buf.fill(0);
            if offset + buf.len() as u64 > self.bytes {
                return Err(Unreadable);
            }
            Ok(())
        }

        fn len(&self) -> u64 {
            self.bytes
        }
    }

    /// A superblock with checksums that fit may name a ring of any length: reading all of it would
    /// never end.
    #[test]
    fn a_ring_is_read_as_far_as_the_file_goes() {
        let geometry = Geometry {
            ring_bytes: 1 << 50,
            ..Geometry::tiny()
        };
        let block_bytes = u64::from(geometry.log_block_bytes);
        for blocks in [0, 1, 10] {
            let bytes = geometry.ring_offset() + blocks * block_bytes + block_bytes / 2;
            let file = Short {
                bytes,
                reads: Cell::new(0),
            };
            let found = sweep(&file, &geometry, 1, Incarnation(0));
            assert_eq!(found.incarnation, Incarnation(0));
            assert!(file.reads.get() <= 2 * (blocks + 2), "{blocks} blocks");
        }
    }
}
