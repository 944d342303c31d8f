//! The threads that call what the core offers: one leads the log when callers do not, one runs
//! checkpoints and gives space back, one helps to hash. They decide nothing that a caller could not.

use crate::checkpoint::Stepped;
use crate::core::Core;
use crate::error::Error;
use crate::planted::{Race, races};
use crate::punch::{BUSY_BYTES_MIN, REST_BYTES_MIN, Thrift};
use crate::queue::Queue;
use crate::state::State;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::thread::{self, JoinHandle};
use crate::sync::{Mutex, MutexGuard};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long a buffered commit waits for its flush.
const BUFFERED_MS: u64 = 1000;

/// How often the maintenance thread looks whether something is due.
const TICK_MS: u64 = 200;

/// How long it waits after a checkpoint that failed and may be tried again.
const RETRY_MS: u64 = 1000;

/// Rounds without a commit after which the store is at rest: two seconds.
const REST_ROUNDS: u32 = 10;

/// What a thread does until it is told to stop.
type Body = Box<dyn FnOnce() + Send>;

/// The threads of an open store.
pub(crate) struct Threads {
    stop: Arc<AtomicBool>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Threads {
    /// None: the callers do everything.
    pub(crate) fn none() -> Self {
        Self {
            stop: Arc::default(),
            handles: Mutex::default(),
        }
    }

    pub(crate) fn start(shared: &Arc<Core>) -> io::Result<Self> {
        let threads = Self::none();
        let body = |body: fn(&Arc<Core>, &AtomicBool)| -> Body {
            let (core, stop) = (Arc::clone(shared), Arc::clone(&threads.stop));
            Box::new(move || body(&core, &stop))
        };
        shared.summing.begin();
        let helping = Arc::clone(shared);
        let bodies = [
            ("dynomite-log", body(lead_the_log)),
            ("dynomite-checkpoint", body(maintain)),
            (
                "dynomite-hash",
                Box::new(move || helping.summing.serve()) as Body,
            ),
        ];
        for (name, body) in bodies {
            match thread::Builder::new().name(name.into()).spawn(body) {
                Ok(handle) => threads.handles.lock().push(handle),
                Err(error) => {
                    threads.stop(shared);
                    return Err(error);
                }
            }
        }
        shared.threaded.store(true, Ordering::Release);
        Ok(threads)
    }

    /// Lets the threads end what they are doing, and waits for them.
    pub(crate) fn stop(&self, core: &Core) {
        self.tell_to_end(core);
        let handles = std::mem::take(&mut *self.handles.lock());
        for handle in handles {
            // A completion may drop the last handle of the store: then this is the thread itself.
            if handle.thread().id() != thread::current().id() {
                let _ = handle.join();
            }
        }
    }

    /// Lets the threads end by themselves: the log thread once it has written what has joined.
    /// Nothing joins any more.
    pub(crate) fn leave(&self, core: &Core) {
        core.queue.lock().leave();
        self.tell_to_end(core);
        self.handles.lock().clear();
    }

    fn tell_to_end(&self, core: &Core) {
        self.stop.store(true, Ordering::Release);
        core.threaded.store(false, Ordering::Release);
        core.summing.end();
        // Under the lock, so that nobody is between looking at `stop` and going to sleep.
        let _queue = (!races(Race::StopUnlocked)).then(|| core.queue.lock());
        core.log_work.notify_all();
        core.maintenance_work.notify_all();
    }
}

/// Tells completions their fate, and leads whenever batches wait and nobody leads, or buffered ones
/// have waited long enough or are many.
fn lead_the_log(core: &Arc<Core>, stop: &AtomicBool) {
    let mut queue = core.queue.lock();
    loop {
        if !queue.untold.is_empty() {
            queue.telling = Some(thread::current().id());
            MutexGuard::unlocked(&mut queue, || core.tell());
            queue.telling = None;
            continue;
        }
        let due = buffered_due(core, &queue);
        let at_once = due == Some(0) || (queue.is_worth_writing() && !queue.others_gather());
        let waiting = queue.has_waiting() && !queue.others_gather();
        if !queue.writing && (waiting || at_once) {
            if at_once || core.gather(&mut queue) {
                // A failure poisons the store and is told to all who wait.
                let _ = core.lead(queue);
                queue = core.queue.lock();
            }
        } else if stop.load(Ordering::Acquire) {
            if queue.is_left() && queue.writing {
                core.moved.wait(&mut queue);
            } else if queue.is_left() && !queue.is_empty() {
                let _ = core.lead(queue);
                queue = core.queue.lock();
            } else {
                return;
            }
        } else if let Some(ms) = due.filter(|ms| *ms > 0) {
            core.log_work
                .wait_for(&mut queue, Duration::from_millis(ms));
        } else {
            core.log_work.wait(&mut queue);
        }
    }
}

/// Milliseconds until buffered commits must be flushed.
fn buffered_due(core: &Core, queue: &Queue) -> Option<u64> {
    let since = queue.buffered_since_ms?;
    let waited = core.world.clock.now_ms().saturating_sub(since);
    Some(BUFFERED_MS.saturating_sub(waited))
}

/// Says that no checkpoint comes any more, if its thread panics: nobody may wait for one then.
struct LastWord<'a>(&'a Core);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        // The schedules are told of a panic by itself.
        if std::thread::panicking() && !cfg!(shuttle) {
            let panicked = io::Error::other("the thread panicked, and has printed why");
            self.0
                .poison_write(&Error::io("running checkpoints")(panicked));
            self.0.moved.notify_all();
        }
    }
}

/// Runs checkpoints when they are due, and punches in between.
fn maintain(core: &Arc<Core>, stop: &AtomicBool) {
    let _last_word = LastWord(core); // dropped behind every lock
    let mut last_ms = core.world.clock.now_ms();
    let mut idle_at = core.visible();
    let mut idle_rounds = 0;
    let mut checkpointed = false;
    loop {
        {
            let mut queue = core.queue.lock();
            if stop.load(Ordering::Acquire) {
                return;
            }
            // A round that did nothing waits, whatever presses: a poisoned store must not spin.
            if !checkpointed || !core.checkpoint_presses(&queue, &core.state.load()) {
                core.maintenance_work
                    .wait_for(&mut queue, Duration::from_millis(TICK_MS));
            }
        }
        if stop.load(Ordering::Acquire) {
            return;
        }
        core.expire_snapshots();
        checkpointed = is_due(core, last_ms, idle_rounds >= REST_ROUNDS);
        if checkpointed {
            last_ms = core.world.clock.now_ms();
            if let Err(error) = checkpoint_paced(core) {
                core.report_checkpoint(Some(error));
                // Nothing else covers the last group for as long as checkpoints fail.
                let _ = core.cover();
                thread::sleep(Duration::from_millis(RETRY_MS));
            }
        } else {
            core.release_retired();
            let issued = core.queue.lock().issued;
            idle_rounds = if issued == idle_at {
                idle_rounds + 1
            } else {
                0
            };
            if issued == idle_at {
                // A failure poisons the store, and the next writer is told.
                let _ = core.cover();
            }
            idle_at = issued;
            if idle_rounds >= REST_ROUNDS {
                core.state.load().active.give_back();
            }
        }
        if core.options.punch {
            punch(core, stop, idle_rounds);
        }
    }
}

fn is_due(core: &Arc<Core>, last_ms: u64, at_rest: bool) -> bool {
    if core.refuse_writes().is_err() {
        return false;
    }
    let queue: MutexGuard<'_, Queue> = core.queue.lock();
    let state: arc_swap::Guard<Arc<State>> = core.state.load();
    if core.checkpoint_presses(&queue, &state) {
        return true;
    }
    drop(queue);
    // A memtable that is frozen here is a failed checkpoint's, and has the memory anyway.
    let lookups = core.cache.lookups();
    if state.frozen.is_none() && core.memory.is_missed(state.active.ops(), lookups) {
        return true;
    }
    if state.active.is_empty() && state.frozen.is_none() && !core.directory.has_changes() {
        let checkpointer = core.checkpointer.lock();
        if !checkpointer.has_hidden() {
            return false;
        }
        // Each gives back some of what dropped trees hold.
        if at_rest {
            return true;
        }
    }
    core.world.clock.now_ms().saturating_sub(last_ms) >= core.options.checkpoint_ms
}

/// A whole checkpoint, the lock given up between steps so that others may look in.
fn checkpoint_paced(core: &Arc<Core>) -> Result<(), Error> {
    loop {
        let stepped = core.checkpointer.lock().step(core)?;
        if matches!(stepped, Stepped::Done(_)) {
            return Ok(());
        }
    }
}

/// Gives free space back, piece by piece, as long as nobody commits.
fn punch(core: &Arc<Core>, stop: &AtomicBool, idle_rounds: u32) {
    let (thrift, bytes_min) = if idle_rounds < REST_ROUNDS {
        (Thrift::Busy, BUSY_BYTES_MIN)
    } else {
        (Thrift::AtRest, REST_BYTES_MIN)
    };
    let issued = core.queue.lock().issued;
    while !stop.load(Ordering::Acquire) {
        let queue = core.queue.lock();
        if queue.writing || (thrift == Thrift::AtRest && queue.issued != issued) {
            return;
        }
        drop(queue);
        match core.punch_some(thrift, bytes_min) {
            Ok(bytes) if bytes > 0 => {}
            // Nothing to give back, or a file system that takes nothing back.
            _ => return,
        }
    }
}
