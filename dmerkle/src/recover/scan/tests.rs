//! Goal: the scan's verdicts and what it hands out, against a model that knows what really
//! happened. Method: a simulated writer lives many lives on one ring of 32 blocks: it commits
//! groups, flushes some, checkpoints, crashes with any subset of its unflushed blocks on the disk
//! (old, new or garbage), and recovers through the public functions. Then, on copies, blocks rot
//! and slots are lost. All chance comes from one seed, which a failure prints.

use super::super::*;
use super::*;
use crate::format::log_block::{after_skip, encode_group, encode_skip, group_blocks, group_fits};
use crate::format::record::{BatchRef, BatchWriter, Operation};
use crate::format::superblock::{Slot, tests::sample};
use crate::geometry::SUPERBLOCK_OFFSETS;
use crate::types::{OpeningId, TreeId};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A file in memory with sectors that cannot be read.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    unreadable: Vec<u64>,
}

impl ReadAt for Image {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let from = usize::try_from(offset).unwrap();
        let end = offset + buf.len() as u64;
        if self
            .unreadable
            .iter()
            .any(|&bad| bad < end && bad + 512 > offset)
        {
            return Err(Unreadable);
        }
        let bytes = self.bytes.get(from..from + buf.len()).ok_or(Unreadable)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Splitmix64.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A batch that the model believes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    id: u64,
    start: Lsn,
    end: Lsn,
}

struct Life {
    geometry: Geometry,
    disk: Image,
    /// Written since the last flush: offset -> (old bytes, new bytes).
    unflushed: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    /// What each sector held before it held what it holds: for lost writes.
    before: BTreeMap<u64, Vec<u8>>,
    chance: Chance,
    superblock: Superblock,
    newest: Slot,
    /// Live batches since the oldest log start that may still be opened.
    history: Vec<Known>,
    /// How many of them are durable.
    durable_batches: usize,
    next: Lsn,
    durable: Lsn,
    /// Where the log must not be overwritten.
    floor: Lsn,
    stamp: Generation,
    next_id: u64,
}

fn batch(id: u64, length: usize) -> Vec<u8> {
    let mut writer = BatchWriter::new();
    let name = vec![0x55; length];
    let tree = TreeId(id);
    writer.push(&Operation::CreateTree { tree, name: &name });
    writer.finish().to_vec()
}

fn id_of(bytes: &[u8]) -> u64 {
    match BatchRef::decode(bytes).unwrap().ops().next() {
        Some(Operation::CreateTree { tree, .. }) => tree.0,
        other => panic!("a stranger's batch: {other:?}"),
    }
}

/// What a recovery found.
struct Found {
    choice: Choice,
    scan: Scan,
    batches: Vec<Known>,
}

fn recover(disk: &Image, accept_loss: Option<Lsn>) -> Result<Found, Refusal> {
    let superblocks = read_superblocks(disk).unwrap();
    let choice = choose(disk, &superblocks)?;
    let mut batches = Vec::new();
    let input = ScanInput {
        superblock: &choice.superblock,
        starts: &choice.starts,
        accept_loss,
    };
    let scan = scan(disk, &input, &mut |batch: BatchAt<'_>| {
        let (start, end) = (batch.start, batch.end);
        let id = id_of(batch.bytes);
        batches.push(Known { id, start, end });
        Ok::<(), ()>(())
    });
    let scan = scan.unwrap();
    Ok(Found {
        choice,
        scan,
        batches,
    })
}

impl Life {
    fn new(seed: u64) -> Self {
        let geometry = Geometry::tiny();
        let mut superblock = sample(geometry);
        superblock.generation = Generation(1);
        superblock.incarnation = Incarnation(1);
        superblock.earlier.clear();
        (superblock.log_start, superblock.cut, superblock.durable) = (Lsn(0), Lsn(0), Lsn(0));
        let bytes = usize::try_from(geometry.data_start().0 * geometry.unit()).unwrap();
        let mut life = Self {
            geometry,
            disk: Image {
                bytes: vec![0; bytes],
                unreadable: Vec::new(),
            },
            unflushed: BTreeMap::new(),
            before: BTreeMap::new(),
            chance: Chance(seed),
            superblock,
            newest: Slot::A,
            history: Vec::new(),
            durable_batches: 0,
            next: Lsn(0),
            durable: Lsn(0),
            floor: Lsn(0),
            stamp: Generation(1),
            next_id: 1,
        };
        life.write_superblock(Slot::A);
        life.write_superblock(Slot::B);
        life.flush();
        life.newest = Slot::A;
        life
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (index, sector) in (0u64..).zip(bytes.chunks(512)) {
            let offset = offset + 512 * index;
            let at = usize::try_from(offset).unwrap();
            let old = self.disk.bytes[at..at + 512].to_vec();
            self.before.insert(offset, old.clone());
            let entry = self.unflushed.entry(offset).or_insert((old, Vec::new()));
            entry.1 = sector.to_vec();
            self.disk.bytes[at..at + 512].copy_from_slice(sector);
        }
    }

    fn write_superblock(&mut self, slot: Slot) {
        let bytes = self.superblock.encode(slot);
        for copy in slot.copies() {
            self.write(SUPERBLOCK_OFFSETS[copy], &bytes);
        }
        self.newest = slot;
    }

    fn flush(&mut self) {
        self.unflushed.clear();
        self.durable = self.next;
        self.durable_batches = self.history.len();
    }

    /// Any subset of what was not flushed is on the disk; the rest is old, or garbage.
    fn crash(&mut self) {
        let style = self.chance.below(4);
        for (offset, (old, new)) in std::mem::take(&mut self.unflushed) {
            let garbage: Vec<u8> = (0..64)
                .flat_map(|_| self.chance.next().to_le_bytes())
                .collect();
            let bytes = match (style, self.chance.below(3)) {
                (0, _) | (2 | 3, 0) => new,
                (1 | 2, _) | (3, 1) => old,
                _ => garbage,
            };
            let at = usize::try_from(offset).unwrap();
            self.disk.bytes[at..at + 512].copy_from_slice(&bytes);
        }
    }

    fn header(&self) -> GroupHeader {
        GroupHeader {
            lsn: self.next,
            incarnation: self.superblock.incarnation,
            opening: self.superblock.opening,
            incarnation_start: self.superblock.cut,
            durable: self.durable,
            stamp: self.stamp,
        }
    }

    /// Appends a group; false if the ring has no room for it.
    fn append(&mut self, batches: u64, reserve: u64) -> bool {
        let g = self.geometry;
        let mut payload = Vec::new();
        let mut ends = Vec::new();
        for _ in 0..batches {
            let length = match self.chance.below(4) {
                0 => 412,  // the batch ends with its block
                1 => 1000, // more than two blocks
                _ => self.chance.below(300),
            };
            let begin = payload.len();
            payload.extend_from_slice(&batch(self.next_id, usize::try_from(length).unwrap()));
            ends.push((self.next_id, begin, payload.len()));
            self.next_id += 1;
        }
        let blocks = group_blocks(&g, payload.len());
        let mut lsn = self.next;
        if !group_fits(&g, lsn, blocks) {
            lsn = after_skip(&g, lsn);
        }
        let end = lsn.0 + u64::from(blocks) * 512;
        if end + reserve > self.floor.0 + g.ring_bytes {
            return false;
        }
        let header = self.header();
        if lsn != self.next {
            let mut out = vec![0; 512];
            encode_skip(&g, self.superblock.nonce, &header, &mut out);
            self.write(g.log_offset(self.next), &out);
        }
        let mut out = vec![0; blocks as usize * 512];
        let header = GroupHeader { lsn, ..header };
        encode_group(&g, self.superblock.nonce, &header, &payload, &mut out);
        self.write(g.log_offset(lsn), &out);
        for (id, begin, length) in ends {
            let (start, end) = (
                payload_lsn(&g, lsn, begin),
                payload_end_lsn(&g, lsn, length),
            );
            self.history.push(Known { id, start, end });
        }
        self.next = Lsn(end);
        true
    }

    /// Writes the next generation into the older slot; may crash on the way (then false).
    fn checkpoint(&mut self) -> bool {
        self.flush();
        self.superblock.generation.0 += 1;
        self.superblock.log_start = self.next;
        self.superblock.earlier.clear();
        self.superblock.durable = self.durable;
        if self.chance.one_in(3) && self.append(1, 1024) {
            // A commit beside the checkpoint, not yet stamped with it.
            if self.chance.one_in(2) {
                self.flush();
            }
        }
        let older = self.newest.other();
        self.write_superblock(older);
        if self.chance.one_in(4) {
            return false;
        }
        self.flush();
        self.stamp = self.superblock.generation;
        assert!(self.append(0, 0), "the reserve is kept");
        if self.chance.one_in(4) {
            return false;
        }
        self.flush();
        self.release();
        true
    }

    /// Nothing before the superblock's log start is needed any more.
    fn release(&mut self) {
        self.floor = self.superblock.log_start;
        let floor = self.floor;
        let gone = self.history.partition_point(|batch| batch.end <= floor);
        self.history.drain(..gone);
        self.durable_batches -= gone;
    }

    fn live(&mut self) {
        let steps = self.chance.below(12);
        for _ in 0..steps {
            match self.chance.below(8) {
                0 => {
                    if !self.checkpoint() {
                        return;
                    }
                }
                1..=3 => self.flush(),
                _ => {
                    let batches = self.chance.below(5);
                    if !self.append(batches, 1024) && !self.checkpoint() {
                        return;
                    }
                }
            }
        }
    }

    /// What the model says a recovery from `superblock` may hand out, and must.
    fn expected(&self, log_start: Lsn) -> (Vec<Known>, usize) {
        let skip = self
            .history
            .partition_point(|batch| batch.start < log_start);
        let must = self.durable_batches.saturating_sub(skip);
        (self.history[skip..].to_vec(), must)
    }

    /// Recovers, compares, and opens for writing (perhaps crashing there).
    fn reopen(&mut self) -> bool {
        let found = recover(&self.disk, None).expect("a crash alone is never refused");
        let (history, must) = self.expected(found.choice.superblock.log_start);
        let count = found.batches.len();
        assert!(
            matches!(found.scan.tail, Tail::Torn { .. }),
            "a crash alone is never corruption: {:?}",
            found.scan
        );
        assert!(count >= must, "{must} acknowledged, {count} handed out");
        assert_eq!(
            found.batches[..],
            history[..count],
            "a prefix of the history"
        );
        assert_eq!(found.scan.lost_generation(&found.choice.superblock), None);
        assert!(found.scan.durable <= block_at_or_after(&self.geometry, found.scan.end));
        // Extents of a batch above what is durable may turn out bad: the cut is at that batch.
        let mut end = found.scan.end;
        let mut keep = count;
        if self.chance.one_in(3) {
            let durable = found.scan.durable;
            let first = found.batches.partition_point(|batch| batch.end <= durable);
            let first = first.max(must);
            if first < count {
                let room = u64::try_from(count - first).unwrap();
                keep = first + usize::try_from(self.chance.below(room)).unwrap();
                let before = keep.checked_sub(1).map(|last| found.batches[last].end);
                end = match before {
                    Some(before) if self.chance.one_in(2) => before,
                    _ => found.batches[keep].start,
                };
            }
        }
        let skipped = self.history.len() - history.len();
        self.history.truncate(skipped + count);
        self.superblock = found.choice.superblock;
        self.superblock.incarnation =
            Incarnation(found.scan.incarnation.0.max(found.choice.incarnation.0) + 1);
        self.superblock.opening = OpeningId(self.chance.next());
        self.superblock.earlier = found.scan.earlier;
        self.superblock.cut = end;
        self.superblock.durable = end;
        self.stamp = self.superblock.generation;
        self.next = block_at_or_after(&self.geometry, end);
        self.durable = end;
        self.write_superblock(found.choice.write_next);
        if self.chance.one_in(5) {
            // Whether the cut counts depends on what of the superblock is on the disk.
            self.durable_batches = skipped + must;
            return false;
        }
        self.unflushed.clear();
        self.history.truncate(skipped + keep);
        self.durable_batches = self.history.len();
        // Both slots name this generation now.
        self.release();
        true
    }

    /// The LSN up to which the disk's own live blocks and superblocks claim the log as durable,
    /// with the block at `without` gone.
    fn claim(&self, without: Lsn) -> Lsn {
        let mut claim = self.superblock.durable;
        for sector in 0..self.geometry.ring_bytes / 512 {
            let offset = self.geometry.ring_offset() + sector * 512;
            let at = usize::try_from(offset).unwrap();
            let bytes = &self.disk.bytes[at..at + 512];
            if let Ok(block) = LogBlock::decode(bytes, self.superblock.nonce, &self.geometry)
                && block.lsn != without
                && block.group.incarnation == self.superblock.incarnation
            {
                claim = claim.max(block.group.durable);
            }
        }
        claim
    }

    /// One block of the live log rots, on a copy.
    fn rot(&mut self) {
        let start = self.superblock.log_start;
        let blocks = (self.next.0 - start.0) / 512 + 1;
        let lsn = Lsn(start.0 + self.chance.below(blocks) * 512);
        let offset = self.geometry.log_offset(lsn);
        let at = usize::try_from(offset).unwrap();
        let mut disk = self.disk.clone();
        let sector = &mut disk.bytes[at..at + 512];
        match self.chance.below(4) {
            0 => sector.fill(0),
            1 => sector[usize::try_from(self.chance.below(512)).unwrap()] ^= 0x10,
            2 => disk.unreadable.push(offset),
            _ => match self.before.get(&offset) {
                Some(before) => sector.copy_from_slice(before),
                None => return,
            },
        }
        if disk.bytes == self.disk.bytes && disk.unreadable.is_empty() {
            return;
        }
        let healthy = recover(&self.disk, None).unwrap();
        let found = recover(&disk, None).unwrap();
        let count = found.batches.len();
        assert_eq!(found.batches[..], healthy.batches[..count], "a prefix");
        let in_skipped = healthy.batches.len() == count;
        match found.scan.tail {
            Tail::Torn { at } => {
                assert!(
                    in_skipped || lsn >= self.claim(lsn),
                    "block {lsn} rotted, the log was durable to {}, and the tail is torn at {at}",
                    self.claim(lsn)
                );
            }
            Tail::Corrupt { at, .. } => {
                assert_eq!(at, lsn);
                let accepted = recover(&disk, Some(at)).unwrap();
                assert_eq!(accepted.scan.tail, Tail::Torn { at });
                assert_eq!(accepted.batches, found.batches);
                assert!(accepted.scan.end <= at);
                let elsewhere = recover(&disk, Some(Lsn(at.0 + 512))).unwrap();
                assert_eq!(elsewhere.scan, found.scan);
            }
        }
    }

    /// The newest slot is lost, on a copy: the other is opened exactly when nothing is stamped
    /// with a newer generation, and then the same history comes out of it.
    fn lose_slot(&mut self) {
        let mut disk = self.disk.clone();
        for copy in self.newest.copies() {
            let at = usize::try_from(SUPERBLOCK_OFFSETS[copy]).unwrap();
            disk.bytes[at..at + 512].fill(0xee);
        }
        match recover(&disk, None) {
            Err(Refusal::NewerGenerationLost { stamp, .. }) => {
                assert_eq!(stamp, self.superblock.generation);
            }
            Err(other) => panic!("{other:?}"),
            Ok(found) => {
                let (history, must) = self.expected(found.choice.superblock.log_start);
                let count = found.batches.len();
                if let Tail::Torn { .. } = found.scan.tail {
                    assert!(count >= must.min(count));
                    let common = count.min(history.len());
                    assert_eq!(found.batches[..common], history[..common]);
                }
            }
        }
    }
}

fn lives(seed: u64, count: usize) {
    let mut life = Life::new(seed);
    for _ in 0..count {
        life.live();
        life.crash();
        while !life.reopen() {
            life.crash();
        }
        life.rot();
        life.lose_slot();
        life.live();
        life.rot();
        life.crash();
        while !life.reopen() {
            life.crash();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_crash_keeps_what_was_acknowledged_and_every_rot_is_named(seed in any::<u64>()) {
        lives(seed, 12);
    }

    #[test]
    fn an_arbitrary_ring_never_panics(seed in any::<u64>()) {
        // Valid blocks in arbitrary places with arbitrary (legal) headers: bugs and bad luck.
        let mut life = Life::new(seed);
        let g = life.geometry;
        for _ in 0..24 {
            let lsn = Lsn(life.chance.below(64) * 512);
            let start = Lsn(life.chance.below(lsn.0 + 1));
            let header = GroupHeader {
                lsn,
                incarnation: Incarnation(life.chance.below(4)),
                opening: OpeningId(99),
                incarnation_start: start,
                durable: Lsn(start.0 + life.chance.below(lsn.0 - start.0 + 1)),
                stamp: Generation(1),
            };
            let mut payload = Vec::new();
            for _ in 0..life.chance.below(3) {
                payload.extend_from_slice(&batch(1, usize::try_from(life.chance.below(700)).unwrap()));
            }
            if life.chance.one_in(4) {
                payload.push(1);
            }
            let blocks = group_blocks(&g, payload.len());
            if group_fits(&g, lsn, blocks) {
                let mut out = vec![0; blocks as usize * 512];
                encode_group(&g, life.superblock.nonce, &header, &payload, &mut out);
                life.write(g.log_offset(lsn), &out);
            }
        }
        let found = recover(&life.disk, None).unwrap();
        if let Tail::Corrupt { at, .. } = found.scan.tail {
            let accepted = recover(&life.disk, Some(at)).unwrap();
            prop_assert!(accepted.scan.end <= found.scan.end.max(at));
        }
    }
}

/// A log of `groups` (payload lengths, each flushed before the next) on a ring of 1 MiB.
fn big_log(groups: &[usize]) -> (Image, Superblock, Vec<Lsn>) {
    let mut g = Geometry::tiny();
    g.ring_bytes = 1 << 20;
    let mut superblock = sample(g);
    superblock.earlier.clear();
    (superblock.log_start, superblock.cut, superblock.durable) = (Lsn(0), Lsn(0), Lsn(0));
    let bytes = usize::try_from(g.data_start().0 * g.unit()).unwrap();
    let mut disk = Image {
        bytes: vec![0; bytes],
        unreadable: Vec::new(),
    };
    let mut places = Vec::new();
    let mut lsn = Lsn(0);
    for (id, &length) in (1u64..).zip(groups) {
        let payload = batch_of(id, length);
        let header = GroupHeader {
            lsn,
            incarnation: superblock.incarnation,
            opening: superblock.opening,
            incarnation_start: superblock.cut,
            durable: lsn,
            stamp: superblock.generation,
        };
        let blocks = group_blocks(&g, payload.len()) as usize;
        let at = usize::try_from(g.log_offset(lsn)).unwrap();
        let out = &mut disk.bytes[at..at + blocks * 512];
        encode_group(&g, superblock.nonce, &header, &payload, out);
        places.push(lsn);
        lsn.0 += blocks as u64 * 512;
    }
    (disk, superblock, places)
}

/// A batch of about `length` bytes.
fn batch_of(id: u64, length: usize) -> Vec<u8> {
    let mut writer = BatchWriter::new();
    let name = vec![0x33; 1000];
    for _ in 0..=length / 1000 {
        let tree = TreeId(id);
        writer.push(&Operation::CreateTree { tree, name: &name });
    }
    writer.finish().to_vec()
}

fn tail_of(disk: &Image, superblock: &Superblock, reach: Reach) -> Tail {
    let input = ScanInput {
        superblock,
        starts: &[],
        accept_loss: None,
    };
    let mut ignore = |_: BatchAt<'_>| Ok::<(), ()>(());
    scan_reaching(disk, &input, reach, &mut ignore)
        .unwrap()
        .tail
}

#[test]
fn evidence_is_found_behind_the_run_and_behind_a_long_group() {
    let reach = Reach {
        run_bytes: 4096,
        step_bytes: 8192,
    };
    // A live stretch of which everything in the run rotted: the samples find it.
    let (mut disk, superblock, places) = big_log(&[100; 60]);
    let at = usize::try_from(superblock.geometry.log_offset(places[3])).unwrap();
    disk.bytes[at..at + 8192].fill(0);
    let tail = tail_of(&disk, &superblock, reach);
    assert!(
        matches!(tail, Tail::Corrupt { at, .. } if at == places[3]),
        "{tail:?}"
    );
    // A group longer than the run rots in its first or a middle block: only what stands behind
    // the group can claim it, one block far away.
    for rotten in [0, 512, 5120, 40_960] {
        let (mut disk, superblock, places) = big_log(&[100, 60_000, 100]);
        let bad = Lsn(places[1].0 + rotten);
        let at = usize::try_from(superblock.geometry.log_offset(bad)).unwrap();
        disk.bytes[at] ^= 1;
        let tail = tail_of(&disk, &superblock, reach);
        assert!(
            matches!(tail, Tail::Corrupt { at, .. } if at == bad),
            "{rotten}: {tail:?}"
        );
    }
    // Without rot, and with rot in the last group, the tail is torn.
    let (mut disk, superblock, places) = big_log(&[100, 60_000, 100]);
    let tail = tail_of(&disk, &superblock, reach);
    assert!(matches!(tail, Tail::Torn { .. }));
    let at = usize::try_from(superblock.geometry.log_offset(places[2])).unwrap();
    disk.bytes[at] ^= 1;
    assert_eq!(
        tail_of(&disk, &superblock, reach),
        Tail::Torn { at: places[2] }
    );
}

#[test]
fn what_the_superblock_knows_to_be_durable_is_never_torn() {
    let (mut disk, mut superblock, places) = big_log(&[100, 100]);
    let at = usize::try_from(superblock.geometry.log_offset(places[1])).unwrap();
    disk.bytes[at] ^= 1;
    let bad = places[1];
    assert_eq!(
        tail_of(&disk, &superblock, Reach::FULL),
        Tail::Torn { at: bad }
    );
    superblock.durable = Lsn(bad.0 + 1);
    let tail = tail_of(&disk, &superblock, Reach::FULL);
    let durable = superblock.durable;
    assert_eq!(tail, Tail::Corrupt { at: bad, durable });
}

#[test]
#[ignore = "a measurement: run with --release --nocapture"]
fn recoveries_per_second() {
    let mut life = Life::new(7);
    while life.append(3, 1024) {
        life.flush();
    }
    let begin = std::time::Instant::now();
    for _ in 0..100_000 {
        recover(&life.disk, None).unwrap();
    }
    let each = begin.elapsed() / 100_000;
    println!("{each:?} a recovery of a full ring of 32 blocks");
    let (disk, superblock, _) = big_log(&[100; 400]);
    let begin = std::time::Instant::now();
    for _ in 0..100 {
        tail_of(&disk, &superblock, Reach::FULL);
    }
    println!(
        "{:?} a scan of 1 MiB of ring, 400 KiB live",
        begin.elapsed() / 100
    );
}
