//! The commit queue: the order of the log, and its ring's space.
//!
//! A batch *joins* under the queue's lock: it is appended to the payload of the open group, which
//! fixes its LSN, and its operations enter the memtable. A *leader* takes all groups, writes them,
//! flushes once, and moves the durable and the visible LSN. The lock is never held during I/O.
//!
//! Invariants:
//! - Groups are in the order of their LSNs and adjoin; only the last one may be open.
//! - A group does not wrap: where a batch does not fit before the ring's end, a skip block
//!   consumes the rest.
//! - From the ring's tail to the end of the last group it is at most the ring, less the blocks
//!   that only a stamp may use.
//! - `flushed` counts in blocks, `durable` in bytes of batches: an empty group and a skip move only
//!   the first. The log says `flushed` of itself, so that rot in such a block, behind which batches
//!   were acknowledged, is never taken for a torn tail. `durable <= flushed`.
//! - `durable <= visible <= issued` but for buffered commits, which may be visible before they
//!   are durable; `visible` never passes a durable batch that is not flushed.

use crate::error::Error;
use crate::gather::Gather;
use crate::sync::OnceLock;
use crate::sync::thread::ThreadId;
use dmerkle::format::log_block::{
    after_skip, block_at_or_after, block_payload_bytes, group_blocks, group_fits, payload_end_lsn,
};
use dmerkle::{Generation, Geometry, Lsn};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of log written past the durable LSN, at most.
const UNFLUSHED_BYTES_MAX: u64 = 16 << 20;

/// Bytes of log, or a quarter of the ring, that make it worth to write what nobody waits for: so
/// buffered commits go on while the log thread writes, and meet the limit above only if the disk
/// cannot follow.
const WORTH_WRITING_BYTES: u64 = UNFLUSHED_BYTES_MAX / 4;

/// Bytes of a group of several batches, or a quarter of the ring, at most: its buffer comes from
/// memory that is used again.
const GROUP_BYTES_MAX: u64 = 1 << 20;

/// Bytes of extents written past the durable LSN, at most, unless one batch alone has more: recovery
/// reads and hashes them.
const UNFLUSHED_EXTENT_BYTES_MAX: u64 = 64 << 20;

/// Blocks of the ring that only a stamp may use: one skip and one empty group.
const STAMP_BLOCKS: u64 = 2;

/// Called once a commit's fate is known.
pub(crate) type Completion = Box<dyn FnOnce(Result<Lsn, Error>) + Send>;

/// What the members of a group wait on: one system call wakes them all, and none of them takes a
/// lock then.
#[derive(Default)]
pub(crate) struct Ticket(OnceLock<Result<(), Error>>);

impl Ticket {
    /// Waits until the group's fate is known.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        self.0.wait().clone()
    }

    /// The group's fate, if it is known.
    pub(crate) fn poll(&self) -> Option<Result<(), Error>> {
        self.0.get().cloned()
    }

    /// Tells all who wait.
    pub(crate) fn resolve(&self, fate: Result<(), Error>) {
        let told = self.0.set(fate);
        assert!(told.is_ok(), "a group has one leader");
    }
}

/// Batches that are written together.
pub(crate) struct Group {
    /// Where its first block stands.
    pub(crate) start: Lsn,
    /// The batches, one after the other; empty for a stamp.
    pub(crate) payload: Vec<u8>,
    /// Whether this is the skip block before the ring's end.
    pub(crate) skip: bool,
    /// One past the last byte of the last batch.
    pub(crate) end: Lsn,
    /// Where the first batch begins that must not be visible before the group is flushed.
    first_durable: Option<Lsn>,
    open: bool,
    /// Its durable batches.
    pub(crate) durable_batches: usize,
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) completions: Vec<(Lsn, Completion)>,
}

/// The state under the queue's lock.
pub(crate) struct Queue {
    geometry: Geometry,
    groups: VecDeque<Group>,
    /// Where the group after the last closed one begins.
    next: Lsn,
    /// The end of the newest batch that joined.
    pub(crate) issued: Lsn,
    /// Every batch that ends at or below is flushed: byte exact.
    pub(crate) durable: Lsn,
    /// Every block below is flushed, empty groups and skips too: what the log's blocks carry.
    pub(crate) flushed: Lsn,
    /// Every block below is known to be flushed by a durable block of the log.
    pub(crate) covered: Lsn,
    /// The oldest byte of the ring that must not be overwritten.
    pub(crate) tail: Lsn,
    /// Where the tail moves once a durable block carries a generation, oldest first.
    tails: VecDeque<(Generation, Lsn)>,
    /// The newest generation whose superblock is durable: the stamp of the next group.
    pub(crate) stamp: Generation,
    /// The newest generation that a durable log block carries.
    pub(crate) stamped: Generation,
    /// Bytes of the extents that batches not handed to a leader name.
    pub(crate) extent_bytes: u64,
    /// A leader is at work.
    pub(crate) writing: bool,
    /// What the leader writes holds a durable batch, so nothing newer may be visible yet.
    writing_durable: bool,
    /// When the oldest buffered batch that is not flushed joined.
    pub(crate) buffered_since_ms: Option<u64>,
    /// When more are waited for before a group is written.
    pub(crate) gather: Gather,
    /// Completions whose fate is known, and what to tell them.
    pub(crate) untold: Vec<(Completion, Result<Lsn, Error>)>,
    /// The log thread, while it tells them.
    pub(crate) telling: Option<ThreadId>,
    door: Door,
    /// Bytes of log groups that were handed to leaders, blocks included.
    pub(crate) log_bytes_written: u64,
}

/// Whether anything joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// Nothing joins any more.
    Closed,
    /// Nor does anybody close the store: the log thread, about to end, writes what has joined.
    Left,
}

/// Why a batch cannot join now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// The ring is full: a checkpoint must move its tail.
    Ring,
    /// Too much is written past the durable LSN: a flush must come first.
    Unflushed,
}

/// The longest batch that may ever join: a quarter of the ring, and what its length can say.
pub(crate) fn batch_bytes_max(geometry: &Geometry) -> u64 {
    let blocks = geometry.ring_bytes / 4 / u64::from(geometry.log_block_bytes);
    let bytes = blocks * block_payload_bytes(geometry) as u64;
    bytes.min(u32::MAX.into())
}

impl Group {
    /// Whether a durable batch is in it.
    pub(crate) fn is_durable(&self) -> bool {
        self.first_durable.is_some()
    }
}

impl Queue {
    /// A queue that goes on behind `end` (byte exact), all of it durable.
    pub(crate) fn new(geometry: Geometry, end: Lsn, tail: Lsn, generation: Generation) -> Self {
        let next = block_at_or_after(&geometry, end);
        Self {
            geometry,
            groups: VecDeque::new(),
            next,
            issued: end,
            durable: end,
            flushed: next,
            covered: end,
            tail,
            tails: VecDeque::new(),
            stamp: generation,
            stamped: generation,
            extent_bytes: 0,
            writing: false,
            writing_durable: false,
            buffered_since_ms: None,
            gather: Gather::default(),
            untold: Vec::new(),
            telling: None,
            door: Door::Open,
            log_bytes_written: 0,
        }
    }

    fn block(&self) -> u64 {
        self.geometry.log_block_bytes.into()
    }

    /// Bytes of the blocks of a group with so much payload.
    fn bytes_of(&self, payload: usize) -> u64 {
        u64::from(group_blocks(&self.geometry, payload)) * self.block()
    }

    /// Whether a group with so much payload stands before the ring's end.
    fn fits(&self, at: Lsn, payload: usize) -> bool {
        group_fits(&self.geometry, at, group_blocks(&self.geometry, payload))
    }

    /// The longest batch that may ever join.
    pub(crate) fn batch_bytes_max(&self) -> u64 {
        batch_bytes_max(&self.geometry)
    }

    /// Where the log ends once all groups are written: block aligned.
    pub(crate) fn head(&self) -> Lsn {
        match self.groups.back() {
            Some(group) if group.open => Lsn(group.start.0 + self.bytes_of(group.payload.len())),
            _ => self.next,
        }
    }

    /// Bytes of the ring in use, once all groups are written.
    pub(crate) fn used(&self) -> u64 {
        self.head().0 - self.tail.0
    }

    /// Whether the open group takes a batch of `length` bytes.
    fn open_fits(&self, length: usize) -> bool {
        self.groups.back().is_some_and(|group| {
            let payload = group.payload.len() + length;
            let most = GROUP_BYTES_MAX.min(self.geometry.ring_bytes / 4);
            group.open && self.bytes_of(payload) <= most && self.fits(group.start, payload)
        })
    }

    /// Where the log would end if a batch of `length` bytes joined.
    fn head_with(&self, length: usize) -> Lsn {
        if self.open_fits(length) {
            let group = self.groups.back().expect("it is open");
            return Lsn(group.start.0 + self.bytes_of(group.payload.len() + length));
        }
        let head = self.head();
        let start = if self.fits(head, length) {
            head
        } else {
            after_skip(&self.geometry, head)
        };
        Lsn(start.0 + self.bytes_of(length))
    }

    /// Whether a batch of `length` bytes can join now.
    pub(crate) fn room(&self, length: usize, extent_bytes: u64) -> Result<(), Full> {
        let head = self.head_with(length);
        if head.0 - self.tail.0 > self.geometry.ring_bytes - STAMP_BLOCKS * self.block() {
            return Err(Full::Ring);
        }
        let log = head.0 - self.durable.0 > UNFLUSHED_BYTES_MAX;
        // One that has more by itself waits for those of others, not for every small commit.
        let sum = self.extent_bytes + extent_bytes;
        let extents = self.extent_bytes > 0 && sum > UNFLUSHED_EXTENT_BYTES_MAX;
        if (log || extents) && self.issued > self.durable {
            return Err(Full::Unflushed);
        }
        Ok(())
    }

    /// Appends a batch, for which there is room. Returns its end.
    pub(crate) fn append(
        &mut self,
        batch: &[u8],
        durable: bool,
        completion: Option<Completion>,
    ) -> (Lsn, Arc<Ticket>) {
        if !self.open_fits(batch.len()) {
            self.close_open();
            if !self.fits(self.next, batch.len()) {
                self.push_skip();
            }
            self.push_group(true);
        }
        let previous = self.issued;
        let group = self.groups.back_mut().expect("it was pushed");
        group.payload.extend_from_slice(batch);
        let end = payload_end_lsn(&self.geometry, group.start, group.payload.len());
        group.end = end;
        group.durable_batches += usize::from(durable);
        if durable && group.first_durable.is_none() {
            group.first_durable = Some(previous);
        }
        if let Some(completion) = completion {
            group.completions.push((end, completion));
        }
        self.issued = end;
        (end, Arc::clone(&group.ticket))
    }

    fn push_group(&mut self, open: bool) {
        self.groups.push_back(Group {
            start: self.next,
            payload: Vec::new(),
            skip: false,
            end: self.issued,
            first_durable: None,
            open,
            durable_batches: 0,
            ticket: Arc::default(),
            completions: Vec::new(),
        });
    }

    fn push_skip(&mut self) {
        self.push_group(false);
        let group = self.groups.back_mut().expect("it was pushed");
        group.skip = true;
        self.next = after_skip(&self.geometry, self.next);
    }

    /// Closes the open group; what joins next begins a new one.
    pub(crate) fn close_open(&mut self) {
        let head = self.head();
        if let Some(group) = self.groups.back_mut().filter(|group| group.open) {
            group.open = false;
            self.next = head;
        }
    }

    /// Adds an empty group that carries the stamp and the durable LSN. It may use the blocks that
    /// are kept for it.
    pub(crate) fn push_stamp(&mut self) -> Arc<Ticket> {
        self.close_open();
        self.push_group(false);
        self.next = Lsn(self.next.0 + self.block());
        let group = self.groups.back().expect("it was pushed");
        Arc::clone(&group.ticket)
    }

    /// Where the groups end that were taken last, when nothing has joined since.
    pub(crate) fn taken_to(&self) -> Lsn {
        assert!(self.groups.is_empty(), "all were taken");
        self.next
    }

    /// Takes all groups, for a leader to write.
    pub(crate) fn take(&mut self, now_us: u64) -> Vec<Group> {
        let joined = self.durable_batches();
        self.gather.take(joined, now_us);
        self.close_open();
        self.buffered_since_ms = None;
        self.extent_bytes = 0;
        let groups: Vec<_> = self.groups.drain(..).collect();
        if let (Some(first), Some(_)) = (groups.first(), groups.last()) {
            self.log_bytes_written += self.next.0 - first.start.0;
        }
        groups
    }

    /// The fate of a group that was taken is known: its completions may be told.
    pub(crate) fn decide(&mut self, group: &mut Group, fate: &Result<(), Error>) {
        for (end, completion) in group.completions.drain(..) {
            let fate = fate.clone().map(|()| end);
            self.untold.push((completion, fate));
        }
    }

    /// Whether the last group is covered by no later block, and there is room for one beside
    /// what a stamp may need.
    pub(crate) fn wants_cover(&self) -> bool {
        let room = self.geometry.ring_bytes - (2 * STAMP_BLOCKS + 1) * self.block();
        self.covered < self.issued && self.durable == self.issued && self.used() < room
    }

    /// A checkpoint is durable: the next group carries its generation, and then the log before
    /// `log_start` is free.
    pub(crate) fn stamp_next(&mut self, generation: Generation, log_start: Lsn) {
        self.stamp = generation;
        self.tails.push_back((generation, log_start));
    }

    /// A durable block carries this generation.
    pub(crate) fn has_stamped(&mut self, generation: Generation) {
        self.stamped = self.stamped.max(generation);
        while let Some((first, log_start)) = self.tails.front()
            && *first <= self.stamped
        {
            self.tail = *log_start;
            self.tails.pop_front();
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.door != Door::Open
    }

    /// Lets nothing join any more. Whether that was so before.
    pub(crate) fn close(&mut self) -> bool {
        let before = self.is_closed();
        if !before {
            self.door = Door::Closed;
        }
        before
    }

    /// Lets nothing join any more, of a store that nobody will close.
    pub(crate) fn leave(&mut self) {
        if !self.is_closed() {
            self.door = Door::Left;
        }
    }

    pub(crate) fn is_left(&self) -> bool {
        self.door == Door::Left
    }

    pub(crate) fn writing_durable(&self) -> bool {
        self.writing_durable
    }

    pub(crate) fn set_writing_durable(&mut self, durable: bool) {
        self.writing_durable = durable;
    }

    /// How far readers may see, now that everything below `durable` is flushed: up to the first
    /// durable batch that is not.
    pub(crate) fn visible(&self) -> Lsn {
        self.groups
            .iter()
            .find_map(|group| group.first_durable)
            .unwrap_or(self.issued)
    }

    /// Whether a batch waits for a flush.
    pub(crate) fn has_waiting(&self) -> bool {
        self.groups
            .iter()
            .any(|group| group.first_durable.is_some() || !group.completions.is_empty())
    }

    /// Whether so much has joined that it should be written although nobody waits.
    pub(crate) fn is_worth_writing(&self) -> bool {
        let begin = self.groups.front().map_or(self.next, |group| group.start);
        let enough = WORTH_WRITING_BYTES.min(self.geometry.ring_bytes / 4);
        self.head().0 - begin.0 >= enough
    }

    /// Durable batches that are not yet handed to a leader.
    pub(crate) fn durable_batches(&self) -> usize {
        self.groups.iter().map(|group| group.durable_batches).sum()
    }

    /// Whether somebody waits for more batches, and leads then.
    pub(crate) fn others_gather(&self) -> bool {
        self.gather.is_others(self.durable_batches())
    }

    /// Whether anything is not yet handed to a leader.
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

#[cfg(test)]
mod tests;
