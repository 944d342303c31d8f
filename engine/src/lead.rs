//! Leading: how what has joined becomes durable.
//!
//! Whoever finds the queue without a leader becomes it: takes all groups, writes them, flushes
//! once, moves the durable and the visible LSN, and tells everybody who waits.
//!
//! Invariants:
//! - One leader at a time, between setting `writing` and clearing it; the queue's lock is not held
//!   during I/O.
//! - Nothing is acknowledged before the flush that covers its record and its extents.
//! - The groups of one lead reach the disk in any order. All of them carry the end of the blocks
//!   that were flushed before it, so that recovery takes one that came without those before it for
//!   what it is. That end counts blocks, not batches: else a rotten empty group, flushed long ago,
//!   would pass for a torn tail, and what was acknowledged behind it for never written.
//! - A completion is its caller's code: it may commit, wait for room, or drop the last handle of the
//!   store. So it runs under no lock of the store: leaders, who may be checkpoints, leave it to the log
//!   thread, and without threads to whoever called the store, once that gave the checkpointer's lock
//!   back. The log thread leads nothing meanwhile: what is committed within a completion leads itself,
//!   and others who wait then wait as long as it takes.
//! - A failure poisons, and is told to all who wait, those who joined meanwhile included.

use crate::core::{Core, Joined};
use crate::error::Error;
use crate::gather::ROUNDS_MAX;
use crate::io::{AlignedBuf, Writes};
use crate::options::Durability;
use crate::planted::{self, Bug, Race, races};
use crate::queue::{Group, Queue};
use crate::sync::{MutexGuard, thread};
use dmerkle::format::log_block::{self, GroupHeader};
use dmerkle::{Generation, Lsn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How many groups the fault `AckBeforeWrite` keeps back: enough that a kill at any moment finds
/// some that were acknowledged.
#[cfg(feature = "planted")]
const LATE_GROUPS: usize = 8;

/// Tells, when it is dropped, what leaders have left, unless a thread of the store does. Made before
/// a lock is taken it is dropped behind it.
pub(crate) struct Telling<'a>(&'a Core);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        if !self.0.is_threaded() {
            self.0.tell();
        }
    }
}

impl Core {
    /// Sees to it that a batch that joined with a completion gets its leader. Its fate is the
    /// completion's to tell, and nobody else's.
    pub(crate) fn hurry(self: &Arc<Self>, joined: &mut Joined, durability: Durability) {
        if self.is_threaded() {
            self.log_work.notify_one();
        } else {
            let _ = self.settle(joined, durability);
        }
    }

    /// Waits for what was promised, leading if nobody does.
    pub(crate) fn settle(
        self: &Arc<Self>,
        joined: &mut Joined,
        durability: Durability,
    ) -> Result<(), Error> {
        let _telling = self.telling();
        if let Some(writes) = joined.leads_with.take() {
            let fate = self.lead_with(self.queue.lock(), Some(writes));
            self.pace();
            return fate;
        }
        self.pace();
        let buffered = durability == Durability::Buffered;
        loop {
            if buffered && self.visible() >= joined.end {
                return Ok(());
            }
            let mut queue = self.queue.lock();
            if let Some(fate) = joined.ticket.poll() {
                return fate;
            }
            // Within a completion: the thread to which others hand over is this one.
            let alone = buffered || queue.telling == Some(thread::current().id());
            if !queue.writing && !queue.is_empty() && (alone || !queue.others_gather()) {
                if alone || self.gather(&mut queue) {
                    self.lead(queue)?;
                }
            } else if alone && queue.writing {
                self.moved.wait(&mut queue);
            } else {
                drop(queue);
                // The leader of now, or who it hands over to, resolves the ticket. One that has
                // just left the queue is about to: to ask again and again would only keep it.
                return joined.ticket.wait();
            }
        }
    }

    /// Waits, as long as that is worth it, for batches that are about to join. Whether the caller is
    /// to lead now; else somebody took the groups meanwhile.
    pub(crate) fn gather(&self, queue: &mut MutexGuard<'_, Queue>) -> bool {
        if !self.is_threaded() {
            return true;
        }
        let mut joined = queue.durable_batches();
        let Some(limit) = queue.gather.begin(joined) else {
            return true;
        };
        let taken = queue.gather.taken();
        for _ in 0..ROUNDS_MAX {
            MutexGuard::unlocked(queue, || thread::sleep(limit));
            if queue.gather.taken() != taken {
                return false;
            }
            let before = std::mem::replace(&mut joined, queue.durable_batches());
            if joined == before || queue.gather.is_complete(joined) {
                break;
            }
        }
        assert!(!queue.writing && !queue.is_empty(), "nobody took them");
        true
    }

    /// Writes and flushes all groups, as their leader. The lock is free during I/O.
    pub(crate) fn lead<'a>(self: &'a Arc<Self>, queue: MutexGuard<'a, Queue>) -> Result<(), Error> {
        debug_assert!(!queue.writing, "one leader at a time");
        self.lead_with(queue, None)
    }

    /// Leads with extents under way, which the flush covers, too.
    fn lead_with<'a>(
        self: &'a Arc<Self>,
        mut queue: MutexGuard<'a, Queue>,
        writes: Option<Writes>,
    ) -> Result<(), Error> {
        let begun_us = self.world.clock.now_us();
        let mut groups = queue.take(begun_us);
        if groups.is_empty() {
            return Ok(());
        }
        let (stamp, durable, end) = (queue.stamp, queue.durable, queue.issued);
        let (flushed, blocks_end) = (queue.flushed, queue.taken_to());
        let durable_waits = groups.iter().any(Group::is_durable);
        queue.writing = !races(Race::TwoLeaders);
        queue.set_writing_durable(durable_waits);
        if races(Race::ShowEarly) {
            self.show(end);
        }
        drop(queue);

        let written = self.write_and_flush(&groups, writes, stamp, flushed);
        // A flush of somebody else's that failed meanwhile may have lost what was written here, and
        // the next one says OK.
        let fate = written
            .map_err(|error| self.poison(&error, durable))
            .and_then(|()| self.refuse_writes());
        let ended_us = self.world.clock.now_us();
        let released = groups.iter().map(|group| group.durable_batches).sum();

        let mut queue = self.queue.lock();
        queue.writing = false;
        queue.set_writing_durable(false);
        if fate.is_ok() {
            queue.covered = flushed;
            queue.flushed = blocks_end;
            queue.durable = end;
            queue.has_stamped(stamp);
            let joined = queue.durable_batches();
            let took_us = ended_us.saturating_sub(begun_us);
            queue.gather.flushed(released, joined, took_us, ended_us);
            self.show(queue.visible());
        }
        // Whoever joined in the meantime needs a next leader, or a timer.
        if fate.is_err() {
            groups.extend(queue.take(ended_us));
        }
        for group in &mut groups {
            queue.decide(group, &fate);
        }
        let handed_over = !queue.is_empty() && !races(Race::ForgetHandOver);
        if handed_over || !queue.untold.is_empty() {
            self.log_work.notify_one();
        }
        if !races(Race::ForgetMoved) {
            self.moved.notify_all();
        }
        drop(queue);

        for group in groups {
            group.ticket.resolve(fate.clone());
        }
        if fate.is_ok() {
            self.counters.flushes.fetch_add(1, Ordering::Relaxed);
            self.release_retired();
        }
        fate
    }

    /// Tells an error to all whose batches nobody will write any more: nothing joins, and who has
    /// handed over did so to a thread that is gone.
    pub(crate) fn refuse_waiting(&self, error: &Error) {
        if self.refuse_writes().is_ok() {
            // Who waits still leads.
            return;
        }
        let mut queue = self.queue.lock();
        while queue.writing {
            self.moved.wait(&mut queue);
        }
        let fate = Err(error.clone());
        for mut group in queue.take(self.world.clock.now_us()) {
            queue.decide(&mut group, &fate);
            group.ticket.resolve(fate.clone());
        }
    }

    pub(crate) fn telling(&self) -> Telling<'_> {
        Telling(self)
    }

    /// Tells the completions whose fate is known. Nobody calls it who holds a lock.
    pub(crate) fn tell(&self) {
        let untold = std::mem::take(&mut self.queue.lock().untold);
        for (completion, fate) in untold {
            // A caller's panic is the caller's: the others must learn their fate all the same.
            let _ = catch_unwind(AssertUnwindSafe(|| completion(fate)));
        }
    }

    /// From here on a crash finds the groups.
    fn write_and_flush(
        &self,
        groups: &[Group],
        writes: Option<Writes>,
        stamp: Generation,
        flushed: Lsn,
    ) -> Result<(), Error> {
        let flush = || self.disk.flush().map_err(Error::io("flushing the log"));
        if planted::has(Bug::AckBeforeFlush) {
            flush()?;
            return self.write_groups(groups, writes, stamp, flushed);
        }
        #[cfg(feature = "planted")]
        if planted::has(Bug::AckBeforeWrite) {
            return self.write_groups_late(groups, writes, stamp, flushed);
        }
        self.write_groups(groups, writes, stamp, flushed)?;
        if planted::has(Bug::DropLogFlush) {
            return Ok(());
        }
        flush()
    }

    /// Writes the log, beside extents that are under way. All is complete when it returns.
    fn write_groups(
        &self,
        groups: &[Group],
        mut writes: Option<Writes>,
        stamp: Generation,
        flushed: Lsn,
    ) -> Result<(), Error> {
        if groups.len() > 1 && self.is_threaded() {
            // All at once: nothing is durable before the flush.
            writes = writes.or_else(|| Some(self.pool.writes()));
        }
        for group in groups {
            let (offset, buffer) = self.encode_group(group, stamp, flushed);
            let written = match &mut writes {
                Some(writes) => writes.start(offset, &Arc::new(buffer)),
                None => self.disk.write(offset, &buffer),
            };
            written.map_err(Error::io("writing the log"))?;
        }
        match &mut writes {
            Some(writes) => writes.wait().map_err(Error::io("writing the log")),
            None => Ok(()),
        }
    }

    /// A group as the blocks of the ring hold it, and where.
    fn encode_group(&self, group: &Group, stamp: Generation, flushed: Lsn) -> (u64, AlignedBuf) {
        let geometry = &self.identity.geometry;
        let stamp = if planted::has(Bug::ReleaseBeforeStamp) {
            Generation(0)
        } else {
            stamp
        };
        let header = GroupHeader {
            incarnation: self.identity.incarnation,
            opening: self.identity.opening,
            incarnation_start: self.identity.cut,
            lsn: group.start,
            durable: flushed,
            stamp,
        };
        let blocks = log_block::group_blocks(geometry, group.payload.len());
        let mut buffer = AlignedBuf::zeroed(blocks as usize * geometry.log_block_bytes as usize);
        let nonce = self.identity.nonce;
        if group.skip {
            log_block::encode_skip(geometry, nonce, &header, &mut buffer);
        } else {
            log_block::encode_group(geometry, nonce, &header, &group.payload, &mut buffer);
        }
        (geometry.log_offset(group.start), buffer)
    }

    /// The fault `AckBeforeWrite`: writes what was acknowledged some groups ago.
    #[cfg(feature = "planted")]
    fn write_groups_late(
        &self,
        groups: &[Group],
        writes: Option<Writes>,
        stamp: Generation,
        flushed: Lsn,
    ) -> Result<(), Error> {
        let mut late = self.late.lock();
        late.extend(
            groups
                .iter()
                .map(|group| self.encode_group(group, stamp, flushed)),
        );
        while late.len() > LATE_GROUPS
            && let Some((offset, buffer)) = late.pop_front()
        {
            let written = self.disk.write(offset, &buffer);
            written.map_err(Error::io("writing the log"))?;
        }
        drop(late);
        if let Some(mut writes) = writes {
            writes.wait().map_err(Error::io("writing the log"))?;
        }
        self.disk.flush().map_err(Error::io("flushing the log"))
    }

    /// Makes everything that has joined durable.
    pub(crate) fn flush_log(self: &Arc<Self>) -> Result<(), Error> {
        let _telling = self.telling();
        let wanted = self.queue.lock().issued;
        self.flush_log_to(wanted)
    }

    /// Makes everything up to an LSN durable. What joins meanwhile is not waited for.
    pub(crate) fn flush_log_to(self: &Arc<Self>, wanted: Lsn) -> Result<(), Error> {
        self.lead_until(|queue| queue.durable >= wanted)
    }

    /// Makes a log block durable that carries the newest generation.
    pub(crate) fn stamp(self: &Arc<Self>) -> Result<(), Error> {
        let wanted = {
            let mut queue = self.queue.lock();
            if queue.stamped >= queue.stamp {
                return Ok(());
            }
            queue.push_stamp();
            queue.stamp
        };
        self.lead_until(|queue| queue.stamped >= wanted)
    }

    /// Leads, or waits for who does, until something holds.
    fn lead_until(self: &Arc<Self>, holds: impl Fn(&Queue) -> bool) -> Result<(), Error> {
        loop {
            let mut queue = self.queue.lock();
            self.refuse_writes()?;
            if holds(&queue) {
                return Ok(());
            }
            if queue.writing {
                self.moved.wait(&mut queue);
            } else {
                assert!(!queue.is_empty(), "what is waited for has joined");
                self.lead(queue)?;
            }
        }
    }

    /// Waits until readers see more than they did at `seen`, leading if nobody does: an update
    /// that met a commit that is not visible yet has nothing else to do.
    pub(crate) fn wait_past(self: &Arc<Self>, seen: Lsn) -> Result<(), Error> {
        let _telling = self.telling();
        let mut queue = self.queue.lock();
        self.refuse_writes()?;
        if self.visible() > seen || (queue.is_empty() && !queue.writing) {
            return Ok(());
        }
        if queue.writing {
            self.moved.wait(&mut queue);
            return Ok(());
        }
        self.lead(queue)
    }

    /// Covers the last group of a store that has gone idle: until a later block says that it is
    /// durable, rot there would read as a torn tail. Whether there was something to cover. What is
    /// committed meanwhile is not waited for: the next call covers it.
    pub(crate) fn cover(self: &Arc<Self>) -> Result<bool, Error> {
        let wanted = {
            let mut queue = self.queue.lock();
            if queue.writing || !queue.is_empty() || !queue.wants_cover() {
                return Ok(false);
            }
            queue.push_stamp();
            queue.issued
        };
        self.lead_until(|queue| queue.covered >= wanted)?;
        Ok(true)
    }
}
