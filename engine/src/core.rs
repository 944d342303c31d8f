//! The core that every handle shares: the published state, the commit queue, and how a batch
//! joins. It owns no thread and no clock. How a batch becomes durable stands in `lead`.
//!
//! Locks are taken in this order and none is held during I/O of a commit:
//! checkpoint, then queue, then space; the registry's is a leaf.

use crate::cache::NodeCache;
use crate::checkpoint::{Checkpointer, Retired};
use crate::directory::{Changes, Directory};
use crate::error::Error;
use crate::io::{Disk, IoPool, Writes};
use crate::medium::Owed;
use crate::memory::{Filled, Memory};
use crate::memtable::{Key, Memtable, OpRef};
use crate::options::{Durability, Options};
use crate::pins::Pins;
use crate::planted::{Race, races};
use crate::promise::{self, Pending};
use crate::queue::{Completion, Full, Queue, Ticket};
use crate::space::Space;
use crate::state::{Registry, State};
use crate::stats::Counters;
use crate::sums::Helper;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{ArcSwap, Condvar, Mutex, MutexGuard, thread};
use crate::turnover::Turnover;
use crate::world::World;
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::format::body::BodyRef;
use dmerkle::{Geometry, Incarnation, Lsn, OpeningId, TreeId};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The next number of an open store, see [`Core::number`].
static NEXT_NUMBER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

/// The longest that a writer is slowed before ring or memtable are full.
const PACE_MAX: Duration = Duration::from_millis(4);

/// What a store is, from its creation on, and which opening this is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) geometry: Geometry,
    pub(crate) store_id: [u8; 16],
    pub(crate) nonce: u64,
    pub(crate) created_unix_s: u64,
    pub(crate) key: FingerprintKey,
    pub(crate) incarnation: Incarnation,
    pub(crate) opening: OpeningId,
    /// Where this incarnation's log begins, byte exact.
    pub(crate) cut: Lsn,
}

/// Why the store takes no more writes.
#[derive(Debug, Clone)]
pub(crate) struct Poison {
    cause: Arc<str>,
    durable: Lsn,
}

/// A change of the set of trees, joined with the batch that logs it.
#[derive(Debug, Clone)]
pub(crate) enum TreeChange {
    Create { tree: TreeId, name: Vec<u8> },
    Drop { tree: TreeId },
}

/// "This key has not changed since that LSN."
pub(crate) struct Condition {
    pub(crate) tree: TreeId,
    pub(crate) key: Vec<u8>,
    pub(crate) since: Lsn,
}

/// An operation of an encoded batch: where its key and its body stand there.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) tree: TreeId,
    pub(crate) key: Range<usize>,
    /// None for a deletion.
    pub(crate) body: Option<Range<usize>>,
}

/// A batch, ready to join: everything slow is done.
#[derive(Default)]
pub(crate) struct Prepared {
    /// The encoded batch.
    pub(crate) record: Vec<u8>,
    /// Its operations, sorted by key, each key once.
    pub(crate) ops: Vec<Staged>,
    pub(crate) trees: Option<TreeChange>,
    pub(crate) condition: Option<Condition>,
    /// Bytes of the extents that were written for it.
    pub(crate) extent_bytes: u64,
    /// Units that its medium parts will be moved to.
    pub(crate) owed_units: u64,
    /// Writes of its extents that may be under way.
    pub(crate) writes: Option<Writes>,
}

impl Prepared {
    /// Whether it adds no part and no tree: deletes, and tombstones, which are entries without parts.
    fn only_deletes(&self) -> bool {
        let creates = matches!(self.trees, Some(TreeChange::Create { .. }));
        !creates
            && self.ops().all(|(_, op)| match op {
                OpRef::Delete => true,
                OpRef::Put(body) => body.parts_len() == 0,
            })
    }

    /// The operations as the memtable takes them.
    fn ops(&self) -> impl Iterator<Item = (Key<'_>, OpRef<'_>)> {
        self.ops.iter().map(|op| {
            let key = Key::new(op.tree, &self.record[op.key.clone()]);
            let op = match &op.body {
                None => OpRef::Delete,
                Some(body) => OpRef::Put(BodyRef::trusted(&self.record[body.clone()])),
            };
            (key, op)
        })
    }
}

/// What batches bring that ask for space and have not joined yet: no space is promised twice.
#[derive(Default)]
struct JoiningTotals {
    ops: AtomicU64,
    bytes: AtomicU64,
    owed_units: AtomicU64,
}

/// A batch's part of the totals, from before it asks until it has joined or was refused.
struct Joining<'a> {
    totals: &'a JoiningTotals,
    ops: u64,
    bytes: u64,
    owed_units: u64,
}

impl<'a> Joining<'a> {
    fn enter(totals: &'a JoiningTotals, prepared: &Prepared) -> Self {
        let joining = Self {
            totals,
            ops: prepared.ops.len() as u64,
            bytes: prepared.record.len() as u64,
            owed_units: prepared.owed_units,
        };
        totals.ops.fetch_add(joining.ops, Ordering::SeqCst);
        totals.bytes.fetch_add(joining.bytes, Ordering::SeqCst);
        totals
            .owed_units
            .fetch_add(joining.owed_units, Ordering::SeqCst);
        joining
    }
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        self.totals.ops.fetch_sub(self.ops, Ordering::SeqCst);
        self.totals.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
        self.totals
            .owed_units
            .fetch_sub(self.owed_units, Ordering::SeqCst);
    }
}

/// Why a prepared batch did not join.
pub(crate) enum Refused {
    /// The condition does not hold, or is too old to be decided: read again.
    Changed,
    /// For good.
    Error(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What a checkpoint makes part of the base.
pub(crate) struct Frozen {
    pub(crate) memtable: Arc<Memtable>,
    /// Where the log of everything newer begins.
    pub(crate) log_start: Lsn,
    /// The end of the newest batch in it.
    pub(crate) newest: Lsn,
    pub(crate) changes: Changes,
}

/// A batch that joined.
pub(crate) struct Joined {
    pub(crate) end: Lsn,
    pub(crate) ticket: Arc<Ticket>,
    /// Writes under way of a batch that joined an idle queue: nobody else leads until
    /// [`Core::settle`] does, so that the log is written beside them.
    pub(crate) leads_with: Option<Writes>,
}

pub(crate) struct Core {
    /// Which of the stores that this process has opened it is; no two have the same, not even one
    /// after the other at the same address.
    pub(crate) number: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: IoPool,
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    pub(crate) world: World,
    pub(crate) state: ArcSwap<State>,
    visible: AtomicU64,
    pub(crate) queue: Mutex<Queue>,
    /// The visible LSN, the ring's tail or the durable LSN moved.
    pub(crate) moved: Condvar,
    /// There is work for the log thread.
    pub(crate) log_work: Condvar,
    /// There is work for the maintenance thread, guarded by the queue's lock.
    pub(crate) maintenance_work: Condvar,
    pub(crate) space: Space,
    pub(crate) registry: Registry,
    pub(crate) pins: Pins,
    pub(crate) directory: Directory,
    pub(crate) cache: NodeCache,
    /// How much of it is the cache's.
    pub(crate) memory: Memory,
    pub(crate) checkpointer: Mutex<Checkpointer>,
    /// What checkpoints took out of the tree and nobody may reuse yet, oldest first.
    pub(crate) retired: Mutex<VecDeque<Retired>>,
    /// Units of all trees' nodes in the durable base.
    pub(crate) node_units: AtomicU64,
    /// When values written make a checkpoint due.
    pub(crate) turnover: Turnover,
    /// What the next checkpoints need for medium parts.
    pub(crate) owed: Owed,
    joining: JoiningTotals,
    pub(crate) counters: Counters,
    pub(crate) summing: Helper,
    poison: Mutex<Option<Poison>>,
    poisoned: AtomicBool,
    /// [`crate::Store::close`] was called: nobody reads any more, and nobody writes.
    closed: AtomicBool,
    /// Why the last checkpoint of the maintenance thread ended early, if it may be tried again.
    checkpoint_error: Mutex<Option<Error>>,
    /// Threads lead and checkpoint; without them the callers do.
    pub(crate) threaded: AtomicBool,
    pub(crate) read_only: bool,
    /// What the opening found broken and mended.
    pub(crate) mended: Vec<String>,
    /// What the fault `AckBeforeWrite` has not written yet.
    #[cfg(feature = "planted")]
    pub(crate) late: Mutex<VecDeque<(u64, crate::io::AlignedBuf)>>,
}

/// What [`Core::new`] needs beside the parts that it makes itself.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: IoPool,
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    pub(crate) world: World,
    pub(crate) state: Arc<State>,
    pub(crate) queue: Queue,
    pub(crate) space: Space,
    pub(crate) directory: Directory,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) owed: Owed,
    pub(crate) read_only: bool,
    pub(crate) mended: Vec<String>,
}

impl Core {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let registry = Registry::default();
        registry.publish(&parts.state);
        let replayed = parts.state.active.bytes();
        let memory = Memory::new(&parts.options, &parts.identity.geometry, replayed);
        let cache = NodeCache::new(memory.cache_bytes_max());
        cache.hold(memory.cache_bytes());
        Arc::new(Self {
            number: NEXT_NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            cache,
            memory,
            turnover: Turnover::new(&parts.identity.geometry),
            visible: AtomicU64::new(parts.queue.issued.0),
            disk: parts.disk,
            pool: parts.pool,
            identity: parts.identity,
            options: parts.options,
            world: parts.world,
            state: ArcSwap::new(parts.state),
            queue: Mutex::new(parts.queue),
            moved: Condvar::new(),
            log_work: Condvar::new(),
            maintenance_work: Condvar::new(),
            space: parts.space,
            registry,
            pins: Pins::default(),
            directory: parts.directory,
            node_units: AtomicU64::new(parts.checkpointer.node_units()),
            checkpointer: Mutex::new(parts.checkpointer),
            owed: parts.owed,
            joining: JoiningTotals::default(),
            retired: Mutex::new(VecDeque::new()),
            counters: Counters::default(),
            summing: Helper::default(),
            poison: Mutex::new(None),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            checkpoint_error: Mutex::new(None),
            threaded: AtomicBool::new(false),
            read_only: parts.read_only,
            mended: parts.mended,
            #[cfg(feature = "planted")]
            late: Mutex::default(),
        })
    }

    /// Everything at or below is what readers see.
    pub(crate) fn visible(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::Acquire))
    }

    pub(crate) fn show(&self, lsn: Lsn) {
        self.visible.fetch_max(lsn.0, Ordering::AcqRel);
    }

    pub(crate) fn is_threaded(&self) -> bool {
        self.threaded.load(Ordering::Acquire)
    }

    /// Refuses when no write can be taken.
    pub(crate) fn refuse_writes(&self) -> Result<(), Error> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        if self.poisoned.load(Ordering::Acquire) {
            let poison = self.poison.lock().clone().expect("it was set before");
            return Err(Error::Poisoned {
                cause: poison.cause,
                durable: poison.durable,
            });
        }
        Ok(())
    }

    /// From here on nothing joins, and unless `reads_go_on` nothing is read. Whether nothing joined
    /// before.
    pub(crate) fn close_handles(&self, reads_go_on: bool) -> bool {
        let mut queue = self.queue.lock();
        if !reads_go_on {
            self.closed.store(true, Ordering::Release);
            // Under the queue's lock, so that no tree is created behind it.
            self.directory.close();
        }
        queue.close()
    }

    /// Refuses once the store was closed.
    pub(crate) fn refuse_closed(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        Ok(())
    }

    /// From here on reads keep what was visible and writes are refused.
    pub(crate) fn poison(&self, error: &Error, durable: Lsn) -> Error {
        let mut poison = self.poison.lock();
        let poison = poison.get_or_insert_with(|| Poison {
            cause: error.to_string().into(),
            durable,
        });
        self.poisoned.store(true, Ordering::Release);
        Error::Poisoned {
            cause: Arc::clone(&poison.cause),
            durable: poison.durable,
        }
    }

    /// A write beside the log failed: what it leaves on the disk is not known.
    pub(crate) fn poison_write(&self, error: &Error) -> Error {
        let durable = self.queue.lock().durable;
        self.poison(error, durable)
    }

    /// Gives a batch its place in the log and in the memtable.
    pub(crate) fn join(
        self: &Arc<Self>,
        mut prepared: Prepared,
        durability: Durability,
        completion: Option<Completion>,
    ) -> Result<Joined, Refused> {
        self.refuse_writes()?;
        let _joining = Joining::enter(&self.joining, &prepared);
        self.with_room(|| self.reserve(&prepared))?;
        let durable = durability == Durability::Durable;
        let may_lead = durable && completion.is_none();
        // Before the lock in the order of declaration: a refusal waits for them without it.
        let mut writes = prepared.writes.take().filter(Writes::under_way);
        let mut queue = self.queue.lock();
        let limit = queue.batch_bytes_max();
        let bytes = prepared.record.len() as u64;
        if bytes > limit {
            return Err(Error::BatchTooLarge { bytes, limit }.into());
        }
        loop {
            self.refuse_writes()?;
            if queue.is_closed() {
                return Err(Error::Closed.into());
            }
            match queue.room(prepared.record.len(), prepared.extent_bytes) {
                Ok(()) if !self.memtable_is_full() => {
                    let leads = may_lead && !queue.writing && queue.is_empty();
                    match writes.take() {
                        // Whoever leads flushes what has joined: it must be complete.
                        Some(mut under_way) if !leads => {
                            MutexGuard::unlocked(&mut queue, || self.complete(&mut under_way))?;
                        }
                        kept => {
                            writes = kept;
                            break;
                        }
                    }
                }
                Err(Full::Unflushed) => self.flush_some(&mut queue)?,
                Ok(()) | Err(Full::Ring) => self.make_room(&mut queue)?,
            }
        }
        self.check_condition(prepared.condition.as_ref())?;
        self.directory
            .check(&prepared.ops, prepared.trees.as_ref())?;

        let (end, ticket) = queue.append(&prepared.record, durable, completion);
        queue.extent_bytes += prepared.extent_bytes;
        self.owed.add(prepared.owed_units);
        let state = self.state.load();
        let visible = self.visible();
        state.active.insert(
            prepared.ops(),
            end,
            visible,
            &|from, to| self.registry.needed(from, to),
            &self.identity.geometry,
        );
        if let Some(change) = prepared.trees {
            self.directory.apply(change, end);
            self.directory.note_change(end);
        }
        if !durable {
            if queue.buffered_since_ms.is_none() {
                queue.buffered_since_ms = Some(self.world.clock.now_ms());
                self.log_work.notify_one();
            } else if queue.is_worth_writing() && !queue.writing {
                self.log_work.notify_one();
            }
            if !queue.writing_durable() {
                self.show(queue.visible());
            }
        }
        if writes.is_some() {
            queue.writing = true;
            queue.set_writing_durable(true);
        }
        self.wake_maintenance_if_due(&queue, &state);
        Ok(Joined {
            end,
            ticket,
            leads_with: writes,
        })
    }

    /// Asks for space. On a full disk it may wait in deletions that no checkpoint has carried yet:
    /// then one runs, and space is asked for again. The first one after a recovery releases
    /// nothing, so a second may be needed.
    pub(crate) fn with_room<T>(
        self: &Arc<Self>,
        ask: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Error> {
        const CHECKPOINTS: u32 = 2;
        let nothing_newer = self.state.load().memtables().all(|table| table.is_empty());
        for _ in 0..CHECKPOINTS {
            match ask() {
                Err(Error::DiskFull) if !nothing_newer => self.checkpoint_now()?,
                answer => return answer,
            };
        }
        ask()
    }

    /// Makes sure that a checkpoint of everything pending can finish, this batch included. On a full
    /// disk deletes still pass.
    fn reserve(&self, prepared: &Prepared) -> Result<(), Error> {
        match self.space.reserve(self.disk.as_ref(), self.reserve_units()) {
            Err(Error::DiskFull | Error::StoreFull) if prepared.only_deletes() => Ok(()),
            reserved => reserved,
        }
    }

    /// Units that a checkpoint of everything pending may need (see [`promise`]), of what is just joining
    /// too.
    pub(crate) fn reserve_units(&self) -> u64 {
        // Read before the memtables: what joins in between counts twice, and never not at all.
        let mut ops = self.joining.ops.load(Ordering::SeqCst);
        let mut bytes = self.joining.bytes.load(Ordering::SeqCst);
        let owed_units = self.joining.owed_units.load(Ordering::SeqCst) + self.owed.units();
        let state = self.state.load();
        for table in state.memtables() {
            ops += table.ops();
            bytes += table.data_bytes();
        }
        let pending = Pending {
            ops,
            bytes,
            owed_units,
            node_units: self.node_units.load(Ordering::Relaxed),
            trees: self.directory.count(),
        };
        promise::units(&self.identity.geometry, &pending)
    }

    fn check_condition(&self, condition: Option<&Condition>) -> Result<(), Refused> {
        let Some(condition) = condition else {
            return Ok(());
        };
        let state = self.state.load();
        // What the base has swallowed since cannot be seen any more.
        if condition.since < state.base.newest {
            return Err(Refused::Changed);
        }
        let changed = state
            .memtables()
            .filter_map(|table| table.newest(Key::new(condition.tree, &condition.key)))
            .any(|newest| newest > condition.since);
        if changed {
            Err(Refused::Changed)
        } else {
            Ok(())
        }
    }

    /// Called with the lock when too much is written past the durable LSN.
    fn flush_some(self: &Arc<Self>, queue: &mut MutexGuard<'_, Queue>) -> Result<(), Error> {
        self.counters.stalls.fetch_add(1, Ordering::Relaxed);
        if queue.writing {
            self.moved.wait(queue);
            return Ok(());
        }
        MutexGuard::unlocked(queue, || self.flush_log())
    }

    /// Called with the lock when the ring or the memtable is full.
    fn make_room(self: &Arc<Self>, queue: &mut MutexGuard<'_, Queue>) -> Result<(), Error> {
        self.counters.stalls.fetch_add(1, Ordering::Relaxed);
        if self.is_threaded() {
            if let Some(error) = self.checkpoint_error.lock().clone() {
                return Err(error);
            }
            self.maintenance_work.notify_one();
            self.moved.wait_for(queue, Duration::from_millis(50));
            return Ok(());
        }
        MutexGuard::unlocked(queue, || self.checkpoint_now()).map(|_| ())
    }

    /// Remembers how the maintenance thread's last checkpoint ended, for writers who wait for it.
    pub(crate) fn report_checkpoint(&self, error: Option<Error>) {
        *self.checkpoint_error.lock() = error;
    }

    /// Slows a writer in proportion, once ring or memtable are more than three quarters full, so
    /// that nobody meets a wall.
    pub(crate) fn pace(&self) {
        if !self.is_threaded() {
            return;
        }
        let state = self.state.load();
        let budget = self.memory.memtable_bytes().max(1);
        let memtable = if state.frozen.is_some() {
            state.active.bytes() * 100 / budget
        } else {
            state.active.bytes() * 50 / budget
        };
        let ring = self.queue.lock().used() * 100 / self.identity.geometry.ring_bytes;
        let full = u32::try_from(memtable.max(ring).min(100)).expect("at most 100");
        if full > 75 {
            thread::sleep(PACE_MAX * (full - 75) / 25);
        }
    }

    /// Whether the active memtable has no room until the frozen one is checkpointed.
    fn memtable_is_full(&self) -> bool {
        let state = self.state.load();
        let budget = self.memory.memtable_bytes();
        state.active.bytes() > budget
            && (state.frozen.is_some() || state.active.bytes() > budget + budget / 4)
    }

    fn wake_maintenance_if_due(&self, queue: &Queue, state: &State) {
        if self.is_threaded() && self.checkpoint_presses(queue, state) {
            self.maintenance_work.notify_one();
        }
    }

    /// Whether ring, memtable or the values that a checkpoint would let go want one.
    pub(crate) fn checkpoint_presses(&self, queue: &Queue, state: &State) -> bool {
        queue.used() * 5 > self.identity.geometry.ring_bytes * 2
            || state.active.bytes() > self.memory.memtable_bytes()
            || self.turnover.is_due(state.active.extent_units())
    }

    /// A state and an LSN that belong together: the state holds everything up to the LSN, and
    /// its base nothing above.
    pub(crate) fn consistent(&self, register: bool) -> (Arc<State>, Lsn) {
        loop {
            let state = self.state.load_full();
            let at = if register {
                self.registry.take(|| self.visible())
            } else {
                self.visible()
            };
            if Arc::ptr_eq(&state, &self.state.load()) || races(Race::TornView) {
                return (state, at);
            }
            if register {
                self.registry.release(at);
            }
        }
    }

    /// Freezes all memtables at one LSN: what joined before is in the frozen one, the rest of
    /// the log is the next base's.
    pub(crate) fn freeze(&self) -> Frozen {
        // Made before anybody has to wait for it. Who freezes is one, so the active one stays.
        let active = Arc::clone(&self.state.load().active);
        let part = self.memory.choose(self.filled(&active));
        let bytes_max = self.memory.memtable_bytes_with(part);
        let successor = Arc::new(active.successor(bytes_max));
        let mut queue = self.queue.lock();
        queue.close_open();
        let log_start = queue.head();
        let state = self.state.load_full();
        assert!(state.frozen.is_none(), "one checkpoint at a time");
        let next = Arc::new(State {
            base: Arc::clone(&state.base),
            active: successor,
            frozen: Some(Arc::clone(&state.active)),
        });
        self.registry.publish(&next);
        self.state.store(next);
        self.owed.freeze();
        let frozen = Frozen {
            memtable: Arc::clone(&state.active),
            log_start,
            newest: queue.issued,
            changes: self.directory.take_changes(),
        };
        drop(queue);
        // What the next memtable may have the cache gives up now, beside writers; what this one has it
        // gets back when that is gone.
        let hold = |bytes: u64| self.cache.hold(bytes.min(self.cache.held()));
        self.memory.share(part, hold);
        frozen
    }

    fn filled(&self, memtable: &Memtable) -> Filled {
        let log_bytes = self.queue.lock().used();
        Filled {
            bytes: memtable.bytes(),
            ops: memtable.ops(),
            log_bytes,
            log_bytes_due: self.identity.geometry.ring_bytes / 5 * 2,
            node_bytes: self.node_units.load(Ordering::Relaxed) * self.identity.geometry.unit(),
            lookups: self.cache.lookups(),
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests;
