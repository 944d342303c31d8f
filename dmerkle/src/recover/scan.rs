//! The log scan: streams the live batches and judges where the log ends. The module above states
//! its invariants.
//!
//! One group is in memory at a time. Its batches are handed out only when the block behind it (or
//! the verdict on the tail) is known, because a later incarnation may have begun inside it.

use super::ReadAt;
use super::incarnations::Incarnations;
use super::ring::{Window, sweep};
use crate::format::log_block::{
    BlockKind, GroupHeader, LOG_HEADER_BYTES, LogBlock, block_at_or_after, claim, payload_end_lsn,
    payload_lsn,
};
use crate::format::record::{BATCH_HEADER_BYTES, batch_len};
use crate::format::superblock::{IncarnationStart, Superblock};
use crate::geometry::Geometry;
use crate::types::{Generation, Incarnation, Lsn};

/// What a scan begins with.
#[derive(Debug, Clone, Copy)]
pub struct ScanInput<'a> {
    /// The superblock that the store is opened from: sizes, nonce, where the log begins.
    pub superblock: &'a Superblock,
    /// Later incarnations that are known although their superblock is lost:
    /// [`super::Choice::starts`].
    pub starts: &'a [IncarnationStart],
    /// The operator gives up what is lost at this LSN: corruption there, and only there, is
    /// treated as a torn tail.
    pub accept_loss: Option<Lsn>,
}

/// One live batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchAt<'a> {
    /// Its first byte.
    pub start: Lsn,
    /// One past its last byte.
    pub end: Lsn,
    /// Everything below was durable, as far as the log was read: a batch that ends at or below
    /// needs no verification of its extents.
    pub durable: Lsn,
    /// Its bytes, framed but not yet validated: for [`crate::format::record::BatchRef::decode`].
    pub bytes: &'a [u8],
}

/// How the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Nothing acknowledged stood at or behind this block: the usual end, clean or torn.
    Torn {
        /// The first block that is not part of the log.
        at: Lsn,
    },
    /// Acknowledged data stood there and is bad.
    Corrupt {
        /// The first bad block (or batch, if its frame is broken inside valid blocks).
        at: Lsn,
        /// The log was durable at least up to here.
        durable: Lsn,
    },
}

/// What the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Where the live log ends, to the byte: the cut of the next incarnation.
    pub end: Lsn,
    /// All below was durable: extents of batches that end at or below need no verification.
    pub durable: Lsn,
    /// The largest stamp met. Above the superblock's generation means that a newer superblock was
    /// durable and its write has vanished: [`Scan::lost_generation`].
    pub stamp: Generation,
    /// The largest incarnation met, the superblock's included.
    pub incarnation: Incarnation,
    /// Bytes of ring from the log's start to its end.
    pub live_bytes: u64,
    /// The incarnations that wrote the live log, oldest first: what the next opening's superblock
    /// names as `earlier`. Empty if nothing is live.
    pub earlier: Vec<IncarnationStart>,
    /// How the log ends.
    pub tail: Tail,
}

impl Scan {
    /// The newer generation that was durable once and that no superblock names any more, if there
    /// is one. Such a store must not be opened for writing.
    pub fn lost_generation(&self, superblock: &Superblock) -> Option<Generation> {
        (self.stamp > superblock.generation).then_some(self.stamp)
    }
}

/// How far evidence is looked for behind a bad block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// Bytes that are read whole: what may be written past what is durable.
    pub(super) run_bytes: u64,
    /// Of the rest, one block in each so many bytes.
    pub(super) step_bytes: u64,
}

impl Reach {
    const FULL: Self = Self {
        run_bytes: 16 << 20,
        step_bytes: 64 << 10,
    };
}

/// Blocks sampled by one `read_many`.
const SAMPLES_AT_ONCE: usize = 256;

/// Scans the log from the superblock's `log_start`; `visit` gets every live batch, in order, and
/// may stop the scan with an error.
pub fn scan<E>(
    read: &dyn ReadAt,
    input: &ScanInput<'_>,
    visit: &mut dyn FnMut(BatchAt<'_>) -> Result<(), E>,
) -> Result<Scan, E> {
    scan_reaching(read, input, Reach::FULL, visit)
}

pub(super) fn scan_reaching<E>(
    read: &dyn ReadAt,
    input: &ScanInput<'_>,
    reach: Reach,
    visit: &mut dyn FnMut(BatchAt<'_>) -> Result<(), E>,
) -> Result<Scan, E> {
    let mut scanner = Scanner::new(read, input, reach);
    let mut window = Window::new(read, &input.superblock.geometry);
    let bad = loop {
        match scanner.judge(&mut window) {
            Judgement::Continues => {}
            Judgement::Follows(head) => {
                // The block behind the pending group is known, and with it where the group ends.
                if let Some(at) = scanner.hand_out(visit)? {
                    return Ok(scanner.finish_malformed(at));
                }
                scanner.begin(&mut window, &head);
            }
            Judgement::Bad => break scanner.at,
        }
    };
    let tail = scanner.verdict(&mut window, bad);
    if let Some(at) = scanner.hand_out(visit)? {
        return Ok(scanner.finish_malformed(at));
    }
    Ok(scanner.finish(tail))
}

enum Judgement {
    /// The block was the pending group's next one.
    Continues,
    /// The block begins a group (or is a skip); the pending group, if any, is over.
    Follows(Head),
    /// The block is not what the log goes on with.
    Bad,
}

/// The first block of a group.
struct Head {
    group: GroupHeader,
    kind: BlockKind,
    blocks: u32,
    payload_len: usize,
    /// Bytes of the payload in this block.
    here: usize,
    group_end: Lsn,
}

/// The group that is being read.
struct Pending {
    group: GroupHeader,
    blocks: u32,
    next_index: u32,
    payload_len: usize,
}

struct Scanner<'a> {
    read: &'a dyn ReadAt,
    input: &'a ScanInput<'a>,
    geometry: &'a Geometry,
    reach: Reach,
    known: Incarnations,
    /// The block looked at.
    at: Lsn,
    /// Where the ring is full: one lap behind the log's start.
    lap_end: Lsn,
    pending: Option<Pending>,
    /// The part of the pending group's payload that was read; the memory is used again.
    payload: Vec<u8>,
    /// The incarnation of the last live block.
    writer: Option<Incarnation>,
    /// The end of what was handed out, and of the groups around it.
    end: Lsn,
    durable: Lsn,
    stamp: Generation,
    incarnation: Incarnation,
}

impl<'a> Scanner<'a> {
    fn new(read: &'a dyn ReadAt, input: &'a ScanInput<'a>, reach: Reach) -> Self {
        let superblock = input.superblock;
        let geometry = &superblock.geometry;
        let mut known = Incarnations::default();
        known.learn(IncarnationStart::of_superblock(superblock));
        for &start in superblock.earlier.iter().chain(input.starts) {
            known.learn(start);
        }
        if input.accept_loss.is_some() {
            // The rare case may cost: whatever incarnation turned up behind what was handed out,
            // and made the verdict corrupt, is known beforehand this time.
            let found = sweep(read, geometry, superblock.nonce, superblock.incarnation);
            for &start in found.later.iter() {
                known.learn(start);
            }
        }
        let last = known.iter().last().expect("the superblock's").incarnation;
        // Where a later opening began below, what this superblock knew above is no more.
        let limit = known.limit(superblock.incarnation);
        let durable = superblock.cut.max(superblock.durable);
        Self {
            read,
            input,
            geometry,
            reach,
            known,
            at: superblock.log_start,
            lap_end: Lsn(superblock.log_start.0 + geometry.ring_bytes),
            pending: None,
            payload: Vec::new(),
            writer: None,
            end: superblock.log_start,
            durable: limit.map_or(durable, |limit| limit.min(durable)),
            stamp: Generation(0),
            incarnation: last,
        }
    }

    fn block_bytes(&self) -> u64 {
        self.geometry.log_block_bytes.into()
    }

    /// Whether the block at `self.at` goes on with the log.
    fn judge(&mut self, window: &mut Window<'_>) -> Judgement {
        if self.at >= self.lap_end {
            return Judgement::Bad; // the ring is full
        }
        let bytes = window.block(self.at, self.lap_end);
        let Ok(block) = LogBlock::decode(bytes, self.input.superblock.nonce, self.geometry) else {
            return Judgement::Bad;
        };
        let start = IncarnationStart::of_group(&block.group);
        if block.lsn != self.at
            || self.known.is_dead(start.incarnation, self.at)
            || self.known.contradicts(&start)
        {
            return Judgement::Bad;
        }
        if let Some(pending) = &mut self.pending
            && pending.next_index < pending.blocks
            && pending.group.incarnation == start.incarnation
        {
            // Equal headers: the same write.
            let same = block.group == pending.group
                && block.kind == BlockKind::Group
                && block.index == pending.next_index
                && block.payload_len as usize == pending.payload_len;
            if !same {
                return Judgement::Bad;
            }
            pending.next_index += 1;
            self.payload.extend_from_slice(block.payload);
            self.at = Lsn(self.at.0 + bytes.len() as u64);
            return Judgement::Continues;
        }
        if block.index != 0 || block.group_end(self.geometry) > self.lap_end {
            return Judgement::Bad;
        }
        // A new incarnation begins exactly where it says, else blocks of it are missing. Only the
        // log's first block may be of one that began earlier, before the log's start.
        let begins = self.writer != Some(start.incarnation)
            && (self.writer.is_some() || start.incarnation > self.input.superblock.incarnation);
        if begins && block_at_or_after(self.geometry, start.start) != self.at {
            return Judgement::Bad;
        }
        self.known.learn(start);
        Judgement::Follows(Head {
            group: block.group,
            kind: block.kind,
            blocks: block.group_blocks,
            payload_len: block.payload_len as usize,
            here: block.payload.len(),
            group_end: block.group_end(self.geometry),
        })
    }

    /// Takes the block at `self.at`, which was judged to follow.
    fn begin(&mut self, window: &mut Window<'_>, head: &Head) {
        let group = head.group;
        self.writer = Some(group.incarnation);
        self.incarnation = self.incarnation.max(group.incarnation);
        self.durable = self.durable.max(group.durable);
        self.stamp = self.stamp.max(group.stamp);
        match head.kind {
            BlockKind::Group => {
                let bytes = window.block(self.at, self.lap_end);
                self.payload.clear();
                self.payload
                    .extend_from_slice(&bytes[LOG_HEADER_BYTES..LOG_HEADER_BYTES + head.here]);
                self.at = Lsn(self.at.0 + bytes.len() as u64);
                self.pending = Some(Pending {
                    group,
                    blocks: head.blocks,
                    next_index: 1,
                    payload_len: head.payload_len,
                });
            }
            BlockKind::Skip => {
                let over = head.group_end;
                let limit = self.known.limit(group.incarnation);
                self.end = limit.map_or(over, |limit| limit.min(over));
                self.at = block_at_or_after(self.geometry, self.end);
            }
        }
    }

    /// Hands out the live batches of the pending group, and moves the end. Gives the LSN of a
    /// batch whose frame is broken although its blocks are valid.
    fn hand_out<E>(
        &mut self,
        visit: &mut dyn FnMut(BatchAt<'_>) -> Result<(), E>,
    ) -> Result<Option<Lsn>, E> {
        let Some(pending) = self.pending.take() else {
            return Ok(None);
        };
        let group = pending.group.lsn;
        let limit = self.known.limit(pending.group.incarnation);
        let mut at = 0;
        while at < pending.payload_len {
            let rest = &self.payload[at..];
            let whole = self.payload.len() == pending.payload_len;
            if rest.len() < BATCH_HEADER_BYTES && !whole {
                break;
            }
            let length = batch_len(rest).filter(|&length| length <= pending.payload_len - at);
            let Some(length) = length else {
                let broken = payload_lsn(self.geometry, group, at);
                if limit.is_some_and(|limit| limit <= broken) {
                    break;
                }
                return Ok(Some(broken));
            };
            let end = payload_end_lsn(self.geometry, group, at + length);
            if length > rest.len() || limit.is_some_and(|limit| end > limit) {
                break;
            }
            visit(BatchAt {
                start: payload_lsn(self.geometry, group, at),
                end,
                durable: self.durable,
                bytes: &rest[..length],
            })?;
            self.end = end;
            at += length;
        }
        // A group that ends whole is taken to its last block's end: padding, and a group without
        // batches, are never written over. One that a later incarnation cut ends with the cut.
        let blocks_end = Lsn(group.0 + u64::from(pending.blocks) * self.block_bytes());
        let complete = pending.next_index == pending.blocks;
        match limit.filter(|&limit| limit < blocks_end) {
            Some(limit) if limit <= self.at => self.end = self.end.max(limit),
            None if complete => self.end = blocks_end,
            _ => {}
        }
        Ok(None)
    }

    /// Judges the bad block at `bad`.
    fn verdict(&mut self, window: &mut Window<'_>, bad: Lsn) -> Tail {
        let evidence = self.evidence(window, bad);
        for block in &evidence {
            self.incarnation = self.incarnation.max(block.incarnation);
            self.stamp = self.stamp.max(block.stamp);
            self.known.learn(block.start);
        }
        // A later incarnation may turn up that began before `bad`: then its own first block is
        // the one that is missing, and if it began below what was handed out, nothing is sure.
        let mut at = bad;
        let mut doubt = false;
        for known in self
            .known
            .iter()
            .filter(|known| Some(known.incarnation) > self.writer)
        {
            let first = block_at_or_after(self.geometry, known.start);
            if self.writer.is_some() && first < at {
                at = first;
            }
            doubt |= self.writer.is_some() && known.start < self.end;
        }
        let governing = self.known.governing(at);
        let superblock = self.input.superblock;
        let mut claim = self.known.claim_after(governing).unwrap_or_default();
        if superblock.incarnation >= governing {
            claim = claim.max(superblock.durable);
        }
        for block in &evidence {
            let live =
                block.incarnation >= governing && !self.known.is_dead(block.incarnation, block.lsn);
            if live {
                claim = claim.max(block.durable);
                self.durable = self.durable.max(block.durable);
            }
        }
        if (claim > at || doubt) && self.input.accept_loss != Some(at) {
            return Tail::Corrupt {
                at,
                durable: claim.max(at),
            };
        }
        if claim > at {
            // What is given up was durable; what will stand there is not.
            self.durable = self.durable.min(at);
        }
        Tail::Torn { at }
    }

    /// The valid blocks at and behind `bad`, up to one lap behind the log's start, that are of
    /// this writer's incarnation or a later one.
    fn evidence(&self, window: &mut Window<'_>, bad: Lsn) -> Vec<Evidence> {
        let governing = self.known.governing(bad);
        let mut found = Vec::new();
        let mut at = bad;
        let mut until = self.run_until(bad);
        let mut samples = Vec::new();
        let mut buf = Vec::new();
        loop {
            while at < until {
                let bytes = window.block(at, self.lap_end);
                if let Some(block) = self.evidence_of(bytes, bad, governing) {
                    until = until.max(self.run_behind(&block));
                    found.push(block);
                }
                at.0 += self.block_bytes();
            }
            // One block of each step of the rest. A sample of a group longer than a run says
            // where to read on in full.
            samples.clear();
            while at < self.lap_end && samples.len() < SAMPLES_AT_ONCE {
                samples.push(self.geometry.log_offset(at));
                at.0 += self.reach.step_bytes;
            }
            if samples.is_empty() {
                return found;
            }
            let size = self.geometry.log_block_bytes as usize;
            buf.resize(samples.len() * size, 0);
            self.read.read_many(&samples, size, &mut buf);
            for bytes in buf.chunks_exact(size) {
                if let Some(block) = self.evidence_of(bytes, bad, governing) {
                    let behind = self.run_behind(&block);
                    if behind > until {
                        until = behind;
                        at = at.min(block.group_end);
                    }
                    found.push(block);
                }
            }
        }
    }

    /// Where the run that is read in full behind `at` ends. What the ring's end passes over does
    /// not count.
    fn run_until(&self, at: Lsn) -> Lsn {
        let ring_end = Lsn((at.0 / self.geometry.ring_bytes + 1) * self.geometry.ring_bytes);
        let mut until = Lsn(at.0.saturating_add(self.reach.run_bytes));
        if until > ring_end {
            until = Lsn(ring_end.0.saturating_add(self.reach.run_bytes));
        }
        until.min(self.lap_end)
    }

    /// Where the run behind a block's group ends, if the group is longer than a run: then what
    /// may claim it stands farther away.
    fn run_behind(&self, block: &Evidence) -> Lsn {
        if block.group_end.0 - block.group.0 < self.reach.run_bytes {
            return Lsn(0);
        }
        self.run_until(block.group_end)
    }

    fn evidence_of(&self, bytes: &[u8], bad: Lsn, governing: Incarnation) -> Option<Evidence> {
        claim(bytes).filter(|claim| claim.lsn >= bad && claim.incarnation >= governing)?;
        let nonce = self.input.superblock.nonce;
        let block = LogBlock::decode(bytes, nonce, self.geometry).ok()?;
        let start = IncarnationStart::of_group(&block.group);
        if self.known.contradicts(&start) {
            return None;
        }
        Some(Evidence {
            lsn: block.lsn,
            incarnation: start.incarnation,
            start,
            durable: block.group.durable,
            stamp: block.group.stamp,
            group: block.group.lsn,
            group_end: block.group_end(self.geometry),
        })
    }

    fn finish_malformed(mut self, at: Lsn) -> Scan {
        if self.input.accept_loss == Some(at) {
            self.durable = self.durable.min(at);
            return self.finish(Tail::Torn { at });
        }
        let durable = self.durable.max(at);
        self.finish(Tail::Corrupt { at, durable })
    }

    fn finish(self, tail: Tail) -> Scan {
        let log_start = self.input.superblock.log_start;
        let earlier = if self.end > log_start {
            self.known.live_between(log_start, self.end)
        } else {
            Vec::new()
        };
        Scan {
            earlier,
            end: self.end,
            durable: self.durable,
            stamp: self.stamp,
            incarnation: self.incarnation,
            live_bytes: self.end.0 - log_start.0,
            tail,
        }
    }
}

/// What a valid block behind a bad one says.
#[derive(Debug)]
struct Evidence {
    lsn: Lsn,
    incarnation: Incarnation,
    start: IncarnationStart,
    durable: Lsn,
    stamp: Generation,
    group: Lsn,
    group_end: Lsn,
}

#[cfg(test)]
mod tests;
