//! The I/O pool: requests go in, completions come back on its threads.
//!
//! Three backends. `io_uring`: each thread drives a ring of its own, for direct I/O where the kernel
//! lets us. Threads: plain calls, for everything else. Inline: the request runs where it is
//! submitted, so that a test owns the order of everything.
//!
//! Invariants:
//! - Every request accepted is completed once, also when the pool is dropped behind it; a request
//!   whose execution panics is the one exception, and its `done` is dropped then.
//! - `done` is called with no lock of the pool held, so it may submit more.
//! - Nothing is ordered: a flush covers the writes whose `done` was called before it was submitted.
//! - The pool does not bound its queue, because a `done` that waited for room in it would wait for
//!   itself. Who submits in bulk bounds what it has under way.

use super::aligned::AlignedBuf;
use super::disk::Disk;
use super::lane::{Lanes, Writes};
use super::ring::{self, OpenRing, Sleeper};
use crate::sync::{Condvar, Mutex};
use crossbeam_channel::{Receiver, Sender};
use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::thread::{self, JoinHandle};

/// The most threads that plain calls are spread over, however deep the queue may be.
const PLAIN_THREADS_MAX: usize = 16;

/// Threads beside rings, for what rings do badly.
const THREADS_BESIDE_RINGS: usize = 4;

/// What the backend of rings is called.
const URING: &str = "io_uring";

/// What is to be done to the disk.
#[derive(Debug)]
pub enum Op {
    /// Fill a new buffer of `len` bytes.
    Read {
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// Fill a new buffer of `len` bytes through the page cache; any offset and length. Beside
    /// rings this has threads of its own, because it may wait for the medium inside the call.
    ReadCached {
        /// Where in the file.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// Write the buffer, which comes back when that is done.
    Write {
        /// Where in the file.
        offset: u64,
        /// What.
        buf: AlignedBuf,
    },
    /// Bring down to the medium what was written before.
    Flush,
}

/// Called once with what came of a request: the bytes read, the buffer written, nothing of a flush.
/// On a thread of the pool, or before `submit` returns. It should not wait for anything.
pub type Done = Box<dyn FnOnce(io::Result<AlignedBuf>) + Send>;

/// One operation and whom to tell.
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Whom to tell.
    pub done: Done,
}

/// How requests reach the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Rings if the disk is direct and the kernel allows them, else threads.
    #[default]
    Auto,
    /// Rings, or no pool.
    Uring,
    /// Plain calls on threads.
    Threads,
    /// In the submitter's thread.
    Inline,
}

/// How a pool is made.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// Threads with a ring each.
    pub threads: usize,
    /// How requests reach the kernel.
    pub backend: Backend,
    /// Requests under way at once in each ring. Plain calls get as many threads as that, up to 16.
    pub depth: usize,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            threads: 2,
            backend: Backend::Auto,
            depth: 32,
        }
    }
}

/// A pool of I/O threads on one disk. Dropping it completes what was submitted.
pub struct IoPool {
    shared: Arc<Shared>,
    way: Way,
    /// Why rings were not taken although they were wanted.
    refusal: Option<io::Error>,
    /// Rings for writers that drive them themselves, if there are rings.
    lanes: Option<Arc<Lanes>>,
}

enum Way {
    Inline(Mutex<InlineQueue>),
    Queue {
        name: &'static str,
        /// None only while the pool is dropped.
        requests: Option<Sender<Request>>,
        /// The same for reads through the page cache, where rings serve the rest.
        cached: Option<Sender<Request>>,
        workers: Vec<JoinHandle<()>>,
        /// One per ring; none for plain threads, which sleep in the channel.
        sleepers: Vec<Arc<Sleeper>>,
        /// Requests that a sleeper takes at once.
        depth: usize,
    },
}

/// What the pool and its threads have in common.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    /// The first panic out of a request, to be passed on when the pool is dropped.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Requests that a `done` submitted while its own request was still being served. They wait for it
/// to return: a chain of requests must not grow the stack.
#[derive(Default)]
struct InlineQueue {
    waiting: VecDeque<Request>,
    running: bool,
}

thread_local! {
    /// The pool whose thread this is, by the address of its `Shared`; 0 elsewhere.
    static WORKER_OF: Cell<usize> = const { Cell::new(0) };
    /// Whether this thread drives a ring, and so looks at the rings' queue by itself.
    static DRIVES_RING: Cell<bool> = const { Cell::new(false) };
}

impl IoPool {
    /// Starts the threads. Fails if they cannot be started, or if `Backend::Uring` was asked for
    /// and is refused.
    pub fn new(disk: Arc<dyn Disk>, options: PoolOptions) -> io::Result<Self> {
        Self::with_rings(disk, options, ring::open)
    }

    /// The same with another way to open a ring: tests refuse it.
    pub(super) fn with_rings(
        disk: Arc<dyn Disk>,
        options: PoolOptions,
        open: OpenRing,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            disk,
            panic: Mutex::default(),
        });
        let (way, refusal) = match options.backend {
            Backend::Inline => (Way::Inline(Mutex::default()), None),
            Backend::Threads => (start_threads(&shared, options)?, None),
            Backend::Uring => (start_rings(&shared, options, open)?, None),
            Backend::Auto => match start_rings(&shared, options, open) {
                Ok(way) => (way, None),
                Err(refusal) => (start_threads(&shared, options)?, Some(refusal)),
            },
        };
        let rings = matches!(&way, Way::Queue { name, .. } if *name == URING);
        let lanes = shared.disk.direct_fd().filter(|_| rings).map(Lanes::new);
        Ok(Self {
            shared,
            way,
            refusal,
            lanes,
        })
    }

    /// `"io_uring"`, `"threads"` or `"inline"`.
    pub fn backend(&self) -> &'static str {
        match &self.way {
            Way::Inline(_) => "inline",
            Way::Queue { name, .. } => name,
        }
    }

    /// Writes that the caller starts, and waits for when it has done something else. Without rings
    /// a write is done when it was started.
    pub fn writes(&self) -> Writes {
        Writes::new(&self.shared.disk, self.lanes.as_ref())
    }

    /// Why `Backend::Auto` did without rings.
    pub fn refusal(&self) -> Option<&io::Error> {
        self.refusal.as_ref()
    }

    /// Hands over a request. Panics, here in the submitter's thread, on a write that the disk's
    /// rules forbid.
    pub fn submit(&self, request: Request) {
        self.submit_all([request]);
    }

    /// Hands over several requests: a thread that sleeps is woken for as many as it can take, not
    /// for the first alone. Panics as [`IoPool::submit`] does.
    pub fn submit_all(&self, requests: impl IntoIterator<Item = Request>) {
        let mut queued = 0;
        for request in requests {
            if let Op::Write { offset, buf } = &request.op
                && let Err(error) = self.shared.disk.admit_write(*offset, buf.len())
            {
                (request.done)(Err(error));
                continue;
            }
            match &self.way {
                Way::Inline(queue) => self.run_inline(queue, request),
                Way::Queue {
                    cached: Some(cached),
                    ..
                } if matches!(request.op, Op::ReadCached { .. }) => {
                    cached.send(request).expect("the threads outlive the pool");
                }
                Way::Queue { requests, .. } => {
                    let requests = requests.as_ref().expect("the pool is not being dropped");
                    requests
                        .send(request)
                        .expect("the threads outlive the pool");
                    queued += 1;
                }
            }
        }
        if let Way::Queue {
            sleepers, depth, ..
        } = &self.way
        {
            // This thread, if it drives a ring of the pool's, looks at the queue after the
            // completion that submits.
            let awake = usize::from(self.is_worker() && DRIVES_RING.get());
            wake(
                sleepers,
                usize::div_ceil(queued, *depth).saturating_sub(awake),
            );
        }
    }

    /// Reads all of the ranges, several at once, and waits. Answers in the order of the ranges.
    pub fn read_many(&self, ranges: &[(u64, usize)]) -> Vec<io::Result<AlignedBuf>> {
        let ops = ranges.iter().map(|&(offset, len)| Op::Read { offset, len });
        self.run_all(ops.collect())
    }

    /// Writes all of the buffers, several at once, and waits for every one of them. The first
    /// error in their order is the answer; which of the others were written is not said.
    pub fn write_many(&self, writes: Vec<(u64, AlignedBuf)>) -> io::Result<()> {
        let ops = writes
            .into_iter()
            .map(|(offset, buf)| Op::Write { offset, buf });
        let results = self.run_all(ops.collect());
        results.into_iter().try_for_each(|result| result.map(drop))
    }

    /// Runs all and waits. One alone is run here: that spares two changes of thread. So is
    /// everything on a thread of the pool, which would else wait for itself.
    fn run_all(&self, ops: Vec<Op>) -> Vec<io::Result<AlignedBuf>> {
        if ops.len() <= 1 || matches!(self.way, Way::Inline(_)) || self.is_worker() {
            let run = |op| self.shared.execute(op);
            return ops.into_iter().map(run).collect();
        }
        let count = ops.len();
        let batch = Arc::new(Batch::new(count));
        self.submit_all(ops.into_iter().enumerate().map(|(at, op)| {
            let ticket = Ticket {
                batch: Arc::clone(&batch),
                at,
                result: None,
            };
            let done = Box::new(move |result| ticket.hand_in(result));
            Request { op, done }
        }));
        batch.wait()
    }

    fn run_inline(&self, queue: &Mutex<InlineQueue>, request: Request) {
        {
            let mut queue = queue.lock();
            queue.waiting.push_back(request);
            if queue.running {
                return;
            }
            queue.running = true;
        }
        // A `done` that panics leaves the pool usable.
        let _stop = StopRunning(queue);
        loop {
            let next = queue.lock().waiting.pop_front();
            let Some(request) = next else { break };
            (request.done)(self.shared.execute(request.op));
        }
    }

    /// Whether this thread may wait for a request that it submits: not one that serves requests.
    pub(crate) fn may_wait(&self) -> bool {
        match &self.way {
            Way::Inline(queue) => !queue.lock().running,
            Way::Queue { .. } => !self.is_worker(),
        }
    }

    fn is_worker(&self) -> bool {
        WORKER_OF.get() == self.shared.address()
    }
}

struct StopRunning<'a>(&'a Mutex<InlineQueue>);

impl Drop for StopRunning<'_> {
    fn drop(&mut self) {
        self.0.lock().running = false;
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        let Way::Queue {
            requests,
            cached,
            workers,
            sleepers,
            ..
        } = &mut self.way
        else {
            return;
        };
        drop(cached.take());
        stop(requests, sleepers, workers);
        if let Some(panic) = self.shared.panic.lock().take()
            && !thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// Lets the threads drain the queue and end.
fn stop(
    requests: &mut Option<Sender<Request>>,
    sleepers: &[Arc<Sleeper>],
    workers: &mut Vec<JoinHandle<()>>,
) {
    // First the end of the queue, then the call that makes a sleeper look.
    drop(requests.take());
    for sleeper in sleepers {
        sleeper.wake();
    }
    for worker in workers.drain(..) {
        // The last handle on the pool may have been held by a `done`: then this is a worker, which
        // ends by itself.
        if worker.thread().id() != thread::current().id() {
            worker.join().expect("requests that panic are caught");
        }
    }
}

/// Wakes so many rings of those that sleep. Whoever does not sleep looks at the queue before it
/// does.
fn wake(sleepers: &[Arc<Sleeper>], mut count: usize) {
    // The requests must be in the queue before we look for sleepers; see `Sleeper`.
    fence(Ordering::SeqCst);
    for sleeper in sleepers {
        if count == 0 {
            return;
        }
        if sleeper.take() {
            sleeper.wake();
            count -= 1;
        }
    }
}

/// Requests that one thread waits for together, so that it is woken once.
struct Batch {
    state: Mutex<BatchState>,
    all_done: Condvar,
}

struct BatchState {
    results: Vec<Option<io::Result<AlignedBuf>>>,
    /// Tickets not yet dropped.
    left: usize,
}

/// Held by the completion of one request of a batch. Counts when dropped, so that a request whose
/// execution panics is waited for no longer than any other.
struct Ticket {
    batch: Arc<Batch>,
    at: usize,
    result: Option<io::Result<AlignedBuf>>,
}

impl Batch {
    fn new(count: usize) -> Self {
        let mut results = Vec::new();
        results.resize_with(count, || None);
        Self {
            state: Mutex::new(BatchState {
                results,
                left: count,
            }),
            all_done: Condvar::new(),
        }
    }

    fn wait(&self) -> Vec<io::Result<AlignedBuf>> {
        let mut state = self.state.lock();
        while state.left > 0 {
            self.all_done.wait(&mut state);
        }
        let lost = || Err(io::Error::other("the I/O thread panicked at this request"));
        let results = mem::take(&mut state.results);
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(lost))
            .collect()
    }
}

impl Ticket {
    fn hand_in(mut self, result: io::Result<AlignedBuf>) {
        self.result = Some(result);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.batch.state.lock();
        state.results[self.at] = self.result.take();
        state.left -= 1;
        if state.left == 0 {
            self.batch.all_done.notify_one();
        }
    }
}

impl Shared {
    /// One request by plain calls.
    pub(super) fn execute(&self, op: Op) -> io::Result<AlignedBuf> {
        match op {
            Op::Read { offset, len } => {
                let mut buf = AlignedBuf::zeroed(len);
                self.disk.read(offset, &mut buf)?;
                Ok(buf)
            }
            Op::ReadCached { offset, len } => {
                let mut buf = AlignedBuf::zeroed(len);
                self.disk.read_cached(offset, &mut buf)?;
                Ok(buf)
            }
            Op::Write { offset, buf } => {
                self.disk.write(offset, &buf)?;
                Ok(buf)
            }
            Op::Flush => {
                self.disk.flush()?;
                Ok(AlignedBuf::default())
            }
        }
    }

    /// Executes a request by plain calls and tells.
    pub(super) fn serve(&self, request: Request) {
        self.guard(|| (request.done)(self.execute(request.op)));
    }

    /// Tells what came of a request.
    pub(super) fn finish(&self, done: Done, result: io::Result<AlignedBuf>) {
        self.guard(|| done(result));
    }

    /// Keeps a panic from ending a thread that others' requests wait for; the first one is passed
    /// on to whoever drops the pool.
    fn guard(&self, work: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.panic.lock().get_or_insert(panic);
        }
    }

    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

/// A name that fits the kernel's 15 bytes.
fn spawn(at: usize, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("dynomite-io-{at}"))
        .spawn(work)
}

/// Marks this thread as one of the pool's while `work` runs.
fn as_worker(shared: &Arc<Shared>, work: impl FnOnce()) {
    WORKER_OF.set(shared.address());
    work();
}

fn start_threads(shared: &Arc<Shared>, options: PoolOptions) -> io::Result<Way> {
    let count = options.depth.min(PLAIN_THREADS_MAX).max(options.threads);
    let (requests, workers) = start_plain(shared, 0, count.max(1))?;
    Ok(Way::Queue {
        name: "threads",
        requests: Some(requests),
        cached: None,
        workers,
        sleepers: Vec::new(),
        depth: 1,
    })
}

/// Starts `count` threads that make plain calls, and the queue that they take from.
fn start_plain(
    shared: &Arc<Shared>,
    first: usize,
    count: usize,
) -> io::Result<(Sender<Request>, Vec<JoinHandle<()>>)> {
    let (requests, queue) = crossbeam_channel::unbounded::<Request>();
    let mut requests = Some(requests);
    let mut workers = Vec::new();
    for at in first..first + count {
        let (shared, queue) = (Arc::clone(shared), queue.clone());
        let work = move || {
            as_worker(&shared, || queue.iter().for_each(|one| shared.serve(one)));
        };
        match spawn(at, work) {
            Ok(worker) => workers.push(worker),
            Err(error) => {
                stop(&mut requests, &[], &mut workers);
                return Err(error);
            }
        }
    }
    let requests = requests.expect("all threads were started");
    Ok((requests, workers))
}

fn start_rings(shared: &Arc<Shared>, options: PoolOptions, open: OpenRing) -> io::Result<Way> {
    let fd = shared.disk.direct_fd().ok_or_else(|| {
        // A buffered write through a ring takes 2 to 5 times as long as pwrite.
        io::Error::new(io::ErrorKind::Unsupported, "the disk is not direct")
    })?;
    let (requests, queue) = crossbeam_channel::unbounded::<Request>();
    let (mut requests, mut workers, mut sleepers) = (Some(requests), Vec::new(), Vec::new());
    let mut started = Ok(());
    for at in 0..options.threads.max(1) {
        started =
            start_ring(at, shared, &queue, (fd, options.depth), open).map(|(worker, sleeper)| {
                workers.push(worker);
                sleepers.push(sleeper);
            });
        if started.is_err() {
            break;
        }
    }
    let beside = started.and_then(|()| start_plain(shared, workers.len(), THREADS_BESIDE_RINGS));
    let cached = match beside {
        Ok((cached, threads)) => {
            workers.extend(threads);
            cached
        }
        Err(refusal) => {
            stop(&mut requests, &sleepers, &mut workers);
            return Err(refusal);
        }
    };
    Ok(Way::Queue {
        name: URING,
        requests,
        cached: Some(cached),
        workers,
        sleepers,
        depth: options.depth.max(1),
    })
}

/// Starts one thread and waits until its ring has worked once. The ring is opened on the thread
/// that will use it, as the kernel demands of a single issuer.
fn start_ring(
    at: usize,
    shared: &Arc<Shared>,
    queue: &Receiver<Request>,
    (fd, depth): (i32, usize),
    open: OpenRing,
) -> io::Result<(JoinHandle<()>, Arc<Sleeper>)> {
    let sleeper = Arc::new(Sleeper::new()?);
    let (report, reported) = crossbeam_channel::bounded(1);
    let worker = {
        let (shared, queue, sleeper) = (Arc::clone(shared), queue.clone(), Arc::clone(&sleeper));
        spawn(at, move || match open(fd, depth) {
            Ok(ring) => {
                let _ = report.send(Ok(()));
                as_worker(&shared, || {
                    DRIVES_RING.set(true);
                    ring::run(ring, depth, &shared, &queue, &sleeper);
                });
            }
            Err(refusal) => {
                let _ = report.send(Err(refusal));
            }
        })?
    };
    match reported.recv() {
        Ok(Ok(())) => Ok((worker, sleeper)),
        Ok(Err(refusal)) => {
            worker.join().expect("the thread reported");
            Err(refusal)
        }
        Err(_) => Err(io::Error::other(
            "the I/O thread died while it opened its ring",
        )),
    }
}

#[cfg(test)]
mod tests;
