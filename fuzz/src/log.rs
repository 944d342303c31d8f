//! What a crash leaves: which superblock is opened, and what of the log lives.
//!
//! [`recover`] takes any bytes for a file. [`log_scan`] lets a writer live several lives on a ring
//! of 32 blocks, as its input says: it commits, flushes, checkpoints, crashes with any subset of
//! its unflushed sectors on the disk (old, new or garbage), recovers, and at last something rots.
//! The oracle is the promise: what was acknowledged is there, or the verdict is corrupt.

use crate::decoders::{NONCE, mend_log_block, mend_superblock};
use arbitrary::{Arbitrary, Unstructured};
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::log_block::{
    GroupHeader, LogBlock, after_skip, block_at_or_after, encode_group, encode_skip, group_blocks,
    group_fits, payload_end_lsn, payload_lsn,
};
use dmerkle::format::pointer::Pointer;
use dmerkle::format::record::{BatchRef, BatchWriter, Operation};
use dmerkle::format::superblock::{RegionTableRef, SUPERBLOCK_BYTES, Slot, Superblock};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::recover::{
    Choice, ReadAt, Refusal, Scan, ScanInput, Tail, Unreadable, choose, read_superblocks, scan,
};
use dmerkle::{Generation, Geometry, Incarnation, Lsn, OpeningId, Summary, TreeId};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Bytes of a sector, and in this geometry of a unit and of a log block.
const SECTOR: usize = 512;
/// Blocks that only a stamp may use: one skip and one empty group.
const STAMP_BYTES: u64 = 2 * SECTOR as u64;

/// A file in memory.
pub(crate) struct Image<'a>(pub(crate) &'a [u8]);

impl ReadAt for Image<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let start = usize::try_from(offset).map_err(|_| Unreadable)?;
        let end = start.checked_add(buf.len()).ok_or(Unreadable)?;
        buf.copy_from_slice(self.0.get(start..end).ok_or(Unreadable)?);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// The log of an arbitrary file is handed out in order, each batch behind the one before it. The
/// file is tried as it is, and with the checksums of superblocks and log blocks mended.
pub fn recover(data: &[u8]) {
    recover_file(data);
    // Inputs are short: what follows the first sector stands where the ring is.
    let mut file = vec![0; ring_end()];
    let (head, rest) = data.split_at(data.len().min(SUPERBLOCK_BYTES));
    for offset in SUPERBLOCK_OFFSETS {
        let at = usize::try_from(offset).unwrap_or_default();
        file[at..at + head.len()].copy_from_slice(head);
        mend_superblock(&mut file[at..at + SUPERBLOCK_BYTES]);
    }
    let ring = SUPERBLOCK_OFFSETS.len() * 16 * 1024;
    let length = rest.len().min(file.len() - ring);
    file[ring..ring + length].copy_from_slice(&rest[..length]);
    for block in file[ring..].chunks_exact_mut(SECTOR) {
        if block[4..8] != [0; 4] {
            mend_log_block(NONCE, block);
        }
    }
    recover_file(&file);
}

fn ring_end() -> usize {
    let geometry = Geometry::tiny();
    usize::try_from(geometry.ring_offset() + geometry.ring_bytes).unwrap_or_default()
}

fn recover_file(file: &[u8]) {
    let image = Image(file);
    let Ok(superblocks) = read_superblocks(&image) else {
        return;
    };
    let Ok(choice) = choose(&image, &superblocks) else {
        return;
    };
    if choice.superblock.geometry.ring_bytes > 1 << 20 {
        // A longer ring than this file's: every block reads as zeros, only slowly.
        return;
    }
    for accept_loss in [None, Some(choice.superblock.log_start)] {
        let input = ScanInput {
            superblock: &choice.superblock,
            starts: &choice.starts,
            accept_loss,
        };
        let mut end = Lsn(0);
        let scanned = scan::<Infallible>(&image, &input, &mut |batch| {
            assert!(end <= batch.start && batch.start < batch.end);
            end = batch.end;
            Ok(())
        });
        let Ok(scanned) = scanned;
        assert!(end <= scanned.end || end == Lsn(0));
        assert!(scanned.live_bytes <= choice.superblock.geometry.ring_bytes);
    }
}

/// A superblock of the geometry of tests, before any commit.
pub(crate) fn a_superblock() -> Superblock {
    Superblock {
        geometry: Geometry::tiny(),
        store_id: [3; 16],
        nonce: NONCE,
        generation: Generation(1),
        incarnation: Incarnation(1),
        opening: OpeningId(9),
        log_start: Lsn(0),
        cut: Lsn(0),
        durable: Lsn(0),
        next_tree: TreeId(3),
        catalog: Pointer::NONE,
        catalog_summary: Summary::EMPTY,
        region_table: RegionTableRef::default(),
        node_units: 0,
        fingerprint_key: FingerprintKey::PUBLIC,
        created: 1,
        earlier: Vec::new(),
    }
}

/// One copy of a superblock, and what became of it.
#[derive(Debug, Arbitrary)]
struct Copy {
    generation: u8,
    incarnation: u8,
    state: u8,
}

/// Of four copies in any state, the newest readable slot is opened; where a slot is lost, only if
/// no block of the log knows of a newer generation.
pub fn superblock_choice(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut file = vec![0; ring_end()];
    let mut slots: [Option<(u64, u64)>; 2] = [None; 2];
    let mut foreign = false;
    let mut valid = 0;
    for (index, offset) in SUPERBLOCK_OFFSETS.into_iter().enumerate() {
        let Ok(copy) = input.arbitrary::<Copy>() else {
            return;
        };
        let at = usize::try_from(offset).unwrap_or_default();
        let mut superblock = a_superblock();
        superblock.generation = Generation(u64::from(copy.generation % 4) + 1);
        superblock.incarnation = Incarnation(u64::from(copy.incarnation % 4) + 1);
        let slot = Slot::of_copy(index);
        let state = copy.state % 16;
        if state == 1 {
            superblock.store_id = [4; 16];
        }
        let stands_in = if state == 2 { slot.other() } else { slot };
        let bytes = superblock.encode(stands_in);
        file[at..at + SUPERBLOCK_BYTES].copy_from_slice(&bytes);
        match state {
            2 => {}
            3..=5 => file[at + usize::from(copy.generation)] ^= 0x10,
            6..=8 => file[at..at + SUPERBLOCK_BYTES].fill(0),
            _ => {
                foreign |= state == 1;
                valid += 1;
                let age = (superblock.incarnation.0, superblock.generation.0);
                let place = &mut slots[index % 2];
                *place = (*place).max(Some(age));
            }
        }
    }
    let mut stamp_max = 0;
    let geometry = Geometry::tiny();
    while let Some((place, stamp, rots)) = crate::next_of::<(u8, u8, bool)>(&mut input) {
        let lsn = Lsn(u64::from(place % 32) * SECTOR as u64);
        let header = GroupHeader {
            lsn,
            incarnation: Incarnation(1),
            opening: OpeningId(9),
            incarnation_start: Lsn(0),
            durable: Lsn(0),
            stamp: Generation(u64::from(stamp % 8)),
        };
        let at = usize::try_from(geometry.log_offset(lsn)).unwrap_or_default();
        let block = &mut file[at..at + SECTOR];
        if block[4..8] != [0; 4] {
            continue;
        }
        encode_group(&geometry, NONCE, &header, &[], block);
        if rots {
            block[40] ^= 1;
        } else {
            stamp_max = stamp_max.max(header.stamp.0);
        }
    }
    let image = Image(&file);
    let Ok(superblocks) = read_superblocks(&image) else {
        assert_eq!(valid, 0, "a valid copy was refused");
        return;
    };
    let choice = choose(&image, &superblocks);
    let newest = slots.iter().flatten().max().copied().unwrap_or_default();
    let lost = slots.contains(&None);
    match choice {
        Err(Refusal::TwoStores) => assert!(foreign),
        Err(Refusal::NewerGenerationLost { .. }) => assert!(lost && stamp_max > newest.1),
        Ok(choice) => {
            let superblock = &choice.superblock;
            assert_eq!((superblock.incarnation.0, superblock.generation.0), newest);
            assert_eq!(choice.write_next, choice.slot.other());
            assert!(
                !lost || stamp_max <= newest.1,
                "an overwritten slot is opened"
            );
        }
    }
}

/// A batch that the model believes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    id: u64,
    start: Lsn,
    end: Lsn,
}

#[derive(Debug, Arbitrary)]
enum Move {
    /// A group of so many batches.
    Commit(u8),
    Flush,
    /// The next generation: written, and only flushed by what comes later.
    Checkpoint,
    /// Makes a checkpoint durable, stamps the log with it and releases what it can.
    Finish,
    Crash(u8),
}

#[derive(Debug, Arbitrary)]
enum Rot {
    Block(u8, u16),
    Slot(bool),
    Copy(u8),
}

struct Life<'a> {
    geometry: Geometry,
    input: Unstructured<'a>,
    disk: Vec<u8>,
    /// Written since the last flush: where, and what was there.
    unflushed: BTreeMap<usize, Vec<u8>>,
    superblock: Superblock,
    newest: Slot,
    /// A checkpoint's superblock that is not durable yet.
    coming: Option<Superblock>,
    /// Live batches since the oldest log start that may still be opened.
    history: Vec<Known>,
    durable_batches: usize,
    next: Lsn,
    durable: Lsn,
    /// Where the log must not be overwritten.
    floor: Lsn,
    stamp: Generation,
    next_id: u64,
}

/// What a recovery found.
struct Found {
    choice: Choice,
    scan: Scan,
    batches: Vec<Known>,
}

/// An acknowledged batch is handed out or the verdict is corrupt; what is handed out is a prefix
/// of the history; a crash alone is never called corruption.
pub fn log_scan(data: &[u8]) {
    let mut life = Life::new(data);
    while let Some(step) = crate::next_of::<Move>(&mut life.input) {
        match step {
            Move::Commit(batches) => {
                if !life.append(u64::from(batches % 6), STAMP_BYTES) {
                    life.checkpoint();
                    life.finish();
                }
            }
            Move::Flush => life.flush(),
            Move::Checkpoint => life.checkpoint(),
            Move::Finish => life.finish(),
            Move::Crash(style) => {
                life.crash(style);
                if style < 240 {
                    life.reopen();
                } else {
                    break;
                }
            }
        }
    }
    // Whatever came last, a crash here is recovered from; and then from each rotten copy.
    life.crash(0);
    life.reopen();
    life.rot(Rot::Slot(true));
    life.rot(Rot::Slot(false));
    for sector in (0..32_u8).step_by(3) {
        life.rot(Rot::Block(sector, 100));
    }
}

impl<'a> Life<'a> {
    fn new(data: &'a [u8]) -> Self {
        let geometry = Geometry::tiny();
        let bytes = usize::try_from(geometry.data_start().0 * geometry.unit()).unwrap_or_default();
        let mut life = Self {
            geometry,
            input: Unstructured::new(data),
            disk: vec![0; bytes],
            unflushed: BTreeMap::new(),
            superblock: a_superblock(),
            newest: Slot::A,
            coming: None,
            history: Vec::new(),
            durable_batches: 0,
            next: Lsn(0),
            durable: Lsn(0),
            floor: Lsn(0),
            stamp: Generation(1),
            next_id: 1,
        };
        let superblock = life.superblock.clone();
        life.write_superblock(&superblock, Slot::A);
        life.write_superblock(&superblock, Slot::B);
        life.flush();
        life
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let offset = usize::try_from(offset).unwrap_or_default();
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + SECTOR * index;
            let place = &mut self.disk[at..at + SECTOR];
            self.unflushed.entry(at).or_insert_with(|| place.to_vec());
            place.copy_from_slice(sector);
        }
    }

    fn write_superblock(&mut self, superblock: &Superblock, slot: Slot) {
        let bytes = superblock.encode(slot);
        for copy in slot.copies() {
            self.write(SUPERBLOCK_OFFSETS[copy], &bytes);
        }
    }

    fn flush(&mut self) {
        self.unflushed.clear();
        self.durable = self.next;
        self.durable_batches = self.history.len();
        if let Some(superblock) = self.coming.take() {
            self.newest = self.newest.other();
            self.stamp = superblock.generation;
            self.superblock = superblock;
        }
    }

    fn crash(&mut self, style: u8) {
        for (at, old) in std::mem::take(&mut self.unflushed) {
            let fate: u8 = self.input.arbitrary().unwrap_or(style);
            match (style % 4, fate % 3) {
                (0, _) | (2 | 3, 0) => {}
                (1, _) | (2, _) | (3, 1) => self.disk[at..at + SECTOR].copy_from_slice(&old),
                _ => self.disk[at..at + SECTOR].fill(fate),
            }
        }
    }

    /// Appends a group; false if the ring has no room for it.
    fn append(&mut self, batches: u64, reserve: u64) -> bool {
        let (mut payload, mut ends) = (Vec::new(), Vec::new());
        for _ in 0..batches {
            let length = match self.input.arbitrary::<u8>().unwrap_or_default() {
                0 => 412,  // the batch ends with its block
                1 => 1000, // more than two blocks
                length => usize::from(length),
            };
            let begin = payload.len();
            payload.extend_from_slice(&batch_of(self.next_id, length));
            ends.push((self.next_id, begin, payload.len()));
            self.next_id += 1;
        }
        let blocks = group_blocks(&self.geometry, payload.len());
        let mut lsn = self.next;
        if !group_fits(&self.geometry, lsn, blocks) {
            lsn = after_skip(&self.geometry, lsn);
        }
        let end = lsn.0 + u64::from(blocks) * SECTOR as u64;
        if end + reserve > self.floor.0 + self.geometry.ring_bytes {
            return false;
        }
        let header = GroupHeader {
            lsn: self.next,
            incarnation: self.superblock.incarnation,
            opening: self.superblock.opening,
            incarnation_start: self.superblock.cut,
            durable: self.durable,
            stamp: self.stamp,
        };
        if lsn != self.next {
            let mut out = vec![0; SECTOR];
            encode_skip(&self.geometry, NONCE, &header, &mut out);
            self.write(self.geometry.log_offset(self.next), &out);
        }
        let mut out = vec![0; blocks as usize * SECTOR];
        let header = GroupHeader { lsn, ..header };
        encode_group(&self.geometry, NONCE, &header, &payload, &mut out);
        self.write(self.geometry.log_offset(lsn), &out);
        for (id, begin, length) in ends {
            self.history.push(Known {
                id,
                start: payload_lsn(&self.geometry, lsn, begin),
                end: payload_end_lsn(&self.geometry, lsn, length),
            });
        }
        self.next = Lsn(end);
        true
    }

    /// Writes the next generation into the older slot.
    fn checkpoint(&mut self) {
        if self.coming.is_some() || self.stamp_is_due() {
            return;
        }
        self.flush();
        let mut next = self.superblock.clone();
        next.generation.0 += 1;
        next.log_start = self.next;
        next.earlier.clear();
        next.durable = self.durable;
        self.write_superblock(&next, self.newest.other());
        self.coming = Some(next);
    }

    fn stamp_is_due(&self) -> bool {
        self.floor < self.superblock.log_start
    }

    /// Flushes the checkpoint, stamps the log, flushes that, and only then releases.
    fn finish(&mut self) {
        self.flush();
        if self.stamp_is_due() {
            assert!(self.append(0, 0), "the reserve is kept");
            self.flush();
            self.release();
        }
    }

    /// Nothing before the superblock's log start is needed any more.
    fn release(&mut self) {
        self.floor = self.superblock.log_start;
        let floor = self.floor;
        let gone = self.history.partition_point(|batch| batch.end <= floor);
        self.history.drain(..gone);
        self.durable_batches -= gone;
    }

    /// What the model says a recovery from `log_start` on may hand out, and how much it must.
    fn expected(&self, log_start: Lsn) -> (&[Known], usize) {
        let before = |batch: &Known| batch.start < log_start;
        let skip = self.history.partition_point(before);
        (
            &self.history[skip..],
            self.durable_batches.saturating_sub(skip),
        )
    }

    /// Recovers after a crash alone, and opens for writing.
    fn reopen(&mut self) {
        let found = recover_life(&self.disk).expect("a crash alone is never refused");
        let (history, must) = self.expected(found.choice.superblock.log_start);
        let count = found.batches.len();
        let tail = found.scan.tail;
        assert!(
            matches!(tail, Tail::Torn { .. }),
            "a crash is called {tail:?}"
        );
        assert!(count >= must, "{must} acknowledged, {count} handed out");
        assert_eq!(
            found.batches[..],
            history[..count],
            "a prefix of the history"
        );
        assert_eq!(found.scan.lost_generation(&found.choice.superblock), None);
        let skipped = self.history.len() - history.len();
        self.history.truncate(skipped + count);
        let scan = found.scan;
        let mut superblock = found.choice.superblock;
        superblock.incarnation =
            Incarnation(scan.incarnation.0.max(found.choice.incarnation.0) + 1);
        superblock.opening = OpeningId(superblock.incarnation.0 * 77);
        superblock.earlier = scan.earlier;
        (superblock.cut, superblock.durable) = (scan.end, scan.end);
        self.coming = None;
        self.write_superblock(&superblock, found.choice.write_next);
        self.stamp = superblock.generation;
        self.next = block_at_or_after(&self.geometry, scan.end);
        self.newest = found.choice.write_next;
        self.superblock = superblock;
        self.flush();
        // Both slots name this generation now.
        self.release();
    }

    /// The LSN up to which live blocks and the superblock claim the log as durable, without the
    /// block at `without`.
    fn claim(&self, without: usize) -> Lsn {
        let mut claim = self.superblock.durable;
        let ring = usize::try_from(self.geometry.ring_offset()).unwrap_or_default();
        let sectors = self.disk[ring..ring_end()].chunks_exact(SECTOR);
        for (_, bytes) in sectors.enumerate().filter(|(index, _)| *index != without) {
            if let Ok(block) = LogBlock::decode(bytes, NONCE, &self.geometry)
                && block.group.incarnation == self.superblock.incarnation
            {
                claim = claim.max(block.group.durable);
            }
        }
        claim
    }

    /// Recovers from a copy on which something has rotted: right, refused, or called corrupt.
    fn rot(&mut self, rot: Rot) {
        let mut disk = self.disk.clone();
        let mut claim = self.claim(usize::MAX);
        match rot {
            Rot::Block(sector, byte) => {
                let sector = usize::from(sector % 32);
                claim = self.claim(sector);
                let ring = usize::try_from(self.geometry.ring_offset()).unwrap_or_default();
                disk[ring + sector * SECTOR + usize::from(byte) % SECTOR] ^= 4;
            }
            Rot::Slot(newest) => {
                let slot = if newest {
                    self.newest
                } else {
                    self.newest.other()
                };
                for copy in slot.copies() {
                    disk[usize::try_from(SUPERBLOCK_OFFSETS[copy]).unwrap_or_default() + 90] ^= 4;
                }
            }
            Rot::Copy(copy) => {
                let offset = SUPERBLOCK_OFFSETS[usize::from(copy % 4)];
                disk[usize::try_from(offset).unwrap_or_default() + 90] ^= 4;
            }
        }
        let Ok(found) = recover_life(&disk) else {
            return;
        };
        let (history, must) = self.expected(found.choice.superblock.log_start);
        let count = found.batches.len();
        assert!(
            count <= history.len(),
            "batches that nobody wrote, after {rot:?}"
        );
        assert_eq!(found.batches[..], history[..count], "after {rot:?}");
        let claimed = history.partition_point(|batch| batch.end <= claim);
        let missing = count < must.min(claimed);
        let corrupt = matches!(found.scan.tail, Tail::Corrupt { .. });
        assert!(
            !missing || corrupt,
            "{count} of {must} acknowledged batches, and no word of it, after {rot:?}"
        );
    }
}

fn batch_of(id: u64, length: usize) -> Vec<u8> {
    let mut writer = BatchWriter::new();
    let (tree, name) = (TreeId(id), vec![0x55; length]);
    writer.push(&Operation::CreateTree { tree, name: &name });
    writer.finish().to_vec()
}

fn recover_life(disk: &[u8]) -> Result<Found, Refusal> {
    let image = Image(disk);
    let superblocks = read_superblocks(&image).expect("one slot is whole");
    let choice = choose(&image, &superblocks)?;
    let mut batches = Vec::new();
    let input = ScanInput {
        superblock: &choice.superblock,
        starts: &choice.starts,
        accept_loss: None,
    };
    let scanned = scan::<Infallible>(&image, &input, &mut |batch| {
        let decoded = BatchRef::decode(batch.bytes).expect("it was written so");
        let Some(Operation::CreateTree { tree, .. }) = decoded.ops().next() else {
            panic!("a stranger's batch");
        };
        batches.push(Known {
            id: tree.0,
            start: batch.start,
            end: batch.end,
        });
        Ok(())
    });
    let Ok(scan) = scanned;
    Ok(Found {
        choice,
        scan,
        batches,
    })
}
