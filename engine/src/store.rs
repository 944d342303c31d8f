//! The store: one file of many named trees.

use crate::batch::Batch;
use crate::core::{Core, Prepared, TreeChange};
use crate::creation::{self, Ring};
use crate::directory::NAME_BYTES_MAX;
use crate::error::Error;
use crate::io::{Disk, FileDisk, IoPool, OpenError, PoolOptions};
use crate::options::{Backend, Durability, Options};
use crate::punch::{REST_BYTES_MIN, Thrift};
use crate::recovery::{self, Access};
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::threads::Threads;
use crate::tree::Tree;
use crate::unfinished::Unfinished;
use crate::world::World;
use dmerkle::format::record::{BatchWriter, Operation};
use dmerkle::{Generation, Lsn, TreeId};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

/// A store, open. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    threads: Threads,
}

/// A tree's name and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeInfo {
    /// The name that it was created with.
    pub name: Vec<u8>,
    /// Never used twice.
    pub id: TreeId,
}

impl Store {
    /// Makes a new store and opens it. A crash before this returns leaves no file of this name, or
    /// a whole and empty store, which [`Store::open`] opens; so does an error while it is opened.
    /// The log's bytes are taken from the disk at once.
    pub fn create(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        Self::create_with(path.as_ref(), options, Ring::Written)
    }

    pub(crate) fn create_with(path: &Path, options: &Options, ring: Ring) -> Result<Self, Error> {
        const DOING: &str = "creating the store's file";
        options.check()?;
        let mut unfinished = Unfinished::claim(path, DOING)?;
        let disk = FileDisk::create(unfinished.path()).map_err(|error| open_error(error, DOING))?;
        unfinished.made();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let created_unix_s = now.map_or(0, |past| past.as_secs());
        creation::format_disk(&disk, &World::real(), options, created_unix_s, ring)?;
        unfinished.name(path, DOING)?;
        drop(disk);
        Self::open_with(path, options, ring)
    }

    /// Opens a store for reading and writing. What a crash left is recovered first.
    pub fn open(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        Self::open_with(path.as_ref(), options, Ring::Written)
    }

    fn open_with(path: &Path, options: &Options, ring: Ring) -> Result<Self, Error> {
        let disk =
            FileDisk::open(path).map_err(|error| open_error(error, "opening the store's file"))?;
        Self::start(Arc::new(disk), options, Access::Write(ring))
    }

    /// Opens a store for reading what its last crash or close left.
    pub fn open_read_only(path: impl AsRef<Path>, options: &Options) -> Result<Self, Error> {
        let disk = FileDisk::open_read_only(path.as_ref())
            .map_err(|error| open_error(error, "opening the store's file"))?;
        Self::start(Arc::new(disk), options, Access::Read)
    }

    fn start(disk: Arc<dyn Disk>, options: &Options, access: Access) -> Result<Self, Error> {
        options.check()?;
        let pool = IoPool::new(
            Arc::clone(&disk),
            PoolOptions {
                threads: options.io_threads.max(1),
                backend: match options.backend {
                    Backend::Auto => crate::io::Backend::Auto,
                    Backend::Threads => crate::io::Backend::Threads,
                },
                ..PoolOptions::default()
            },
        )
        .map_err(Error::io("starting the I/O threads"))?;
        let core = recovery::open(disk, pool, World::real(), options, access)?;
        let threads = if access == Access::Read {
            Threads::none()
        } else {
            Threads::start(&core).map_err(Error::io("starting the store's threads"))?
        };
        Ok(Self {
            inner: Arc::new(Inner { core, threads }),
        })
    }

    /// Writes an empty store on a disk of the caller's.
    #[doc(hidden)]
    pub fn format_on(disk: &dyn Disk, world: &World, options: &Options) -> Result<(), Error> {
        creation::format_disk(disk, world, options, 0, Ring::Written)
    }

    /// Opens the store on a disk of the caller's, without any thread: commits run in the caller,
    /// and [`Store::step`] does what threads would.
    #[doc(hidden)]
    pub fn open_on(disk: Arc<dyn Disk>, world: World, options: &Options) -> Result<Self, Error> {
        Self::open_without_threads(disk, world, options, Access::Write(Ring::Written))
    }

    /// [`Store::open_on`] for reading only.
    #[doc(hidden)]
    pub fn open_read_only_on(
        disk: Arc<dyn Disk>,
        world: World,
        options: &Options,
    ) -> Result<Self, Error> {
        Self::open_without_threads(disk, world, options, Access::Read)
    }

    fn open_without_threads(
        disk: Arc<dyn Disk>,
        world: World,
        options: &Options,
        access: Access,
    ) -> Result<Self, Error> {
        let core = Self::core_on(disk, world, options, access)?;
        let threads = Threads::none();
        Ok(Self {
            inner: Arc::new(Inner { core, threads }),
        })
    }

    fn core_on(
        disk: Arc<dyn Disk>,
        world: World,
        options: &Options,
        access: Access,
    ) -> Result<Arc<Core>, Error> {
        let pool = IoPool::new(
            Arc::clone(&disk),
            PoolOptions {
                backend: crate::io::Backend::Inline,
                ..PoolOptions::default()
            },
        )
        .map_err(Error::io("starting the I/O pool"))?;
        recovery::open(disk, pool, world, options, access)
    }

    /// Opens the store on a disk of the caller's, with the threads of a store in a file.
    #[cfg(test)]
    pub(crate) fn open_with_threads_on(
        disk: Arc<dyn Disk>,
        world: World,
        options: &Options,
    ) -> Result<Self, Error> {
        let core = Self::core_on(disk, world, options, Access::Write(Ring::Written))?;
        let threads = Threads::start(&core).map_err(Error::io("starting the store's threads"))?;
        Ok(Self {
            inner: Arc::new(Inner { core, threads }),
        })
    }

    /// Leaves the store as a crash does: nothing is written any more, not even when the last handle
    /// is dropped.
    #[doc(hidden)]
    pub fn abandon(&self) {
        self.core().queue.lock().close();
    }

    /// Does one step of a checkpoint, beginning one if none is under way. Whether it ended.
    #[doc(hidden)]
    pub fn step(&self) -> Result<bool, Error> {
        let _telling = self.core().telling(); // dropped behind the lock
        let mut checkpointer = self.core().checkpointer.lock();
        let stepped = checkpointer.step(self.core())?;
        Ok(matches!(stepped, crate::checkpoint::Stepped::Done(_)))
    }

    /// Punches one piece of free space, if there is one of `bytes_min` or more. Returns its bytes.
    #[doc(hidden)]
    pub fn punch_some(&self, bytes_min: u64) -> Result<u64, Error> {
        self.core().punch_some(Thrift::Busy, bytes_min)
    }

    /// The same as at rest: what the store does by itself once nobody has written for two seconds.
    #[doc(hidden)]
    pub fn punch_at_rest(&self, bytes_min: Option<u64>) -> Result<u64, Error> {
        let bytes_min = bytes_min.unwrap_or(REST_BYTES_MIN);
        self.core().punch_some(Thrift::AtRest, bytes_min)
    }

    /// Flushes what is buffered. Everything below the LSN that it returns is durable.
    pub fn flush(&self) -> Result<Lsn, Error> {
        self.core().refuse_writes()?;
        self.core().flush_log()?;
        Ok(self.core().queue.lock().durable)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// The tree of a name.
    pub fn tree(&self, name: &[u8]) -> Result<Tree, Error> {
        let id = self.core().directory.find(name).ok_or(Error::NoSuchTree)?;
        Ok(Tree::new(self.core(), id))
    }

    /// Creates a tree, durably. Its name has at most 255 bytes.
    pub fn create_tree(&self, name: &[u8]) -> Result<Tree, Error> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "the tree's name",
                size: name.len() as u64,
                limit: NAME_BYTES_MAX as u64,
            });
        }
        self.core().refuse_writes()?;
        let tree = self.core().directory.new_id();
        let mut record = BatchWriter::new();
        record.push(&Operation::CreateTree { tree, name });
        let change = TreeChange::Create {
            tree,
            name: name.to_vec(),
        };
        self.change_trees(record, change)?;
        Ok(Tree::new(self.core(), tree))
    }

    /// The tree of a name, created if it is not there.
    pub fn tree_or_create(&self, name: &[u8]) -> Result<Tree, Error> {
        match self.tree(name) {
            Err(Error::NoSuchTree) => match self.create_tree(name) {
                Err(Error::TreeExists) => self.tree(name),
                created => created,
            },
            found => found,
        }
    }

    /// Drops a tree with all its entries, durably. Its space comes back with the next checkpoints,
    /// that of 4096 entries with each: when nobody writes, they follow each other until it is back.
    pub fn drop_tree(&self, name: &[u8]) -> Result<(), Error> {
        let tree = self.tree(name)?.id();
        let mut record = BatchWriter::new();
        record.push(&Operation::DropTree { tree });
        self.change_trees(record, TreeChange::Drop { tree })
    }

    fn change_trees(&self, record: BatchWriter, change: TreeChange) -> Result<(), Error> {
        let prepared = Prepared {
            record: record.into_bytes(),
            trees: Some(change),
            ..Prepared::default()
        };
        self.core().write_prepared(prepared, Durability::Durable)?;
        Ok(())
    }

    /// All trees, by name.
    pub fn trees(&self) -> Vec<TreeInfo> {
        let list = self.core().directory.list();
        list.into_iter()
            .map(|(name, id)| TreeInfo { name, id })
            .collect()
    }

    /// A batch to be filled and committed.
    pub fn batch(&self) -> Batch {
        Batch::new()
    }

    /// Commits a batch over any trees of this store: all of it or nothing. One that names a tree
    /// of another store is refused. Returns the end of the commit in the log: everything below it
    /// is visible, and durable if that was asked for. An empty batch commits nothing, and what is
    /// returned is an LSN that was visible.
    pub fn commit(&self, mut batch: Batch, durability: Durability) -> Result<Lsn, Error> {
        batch.refuse_foreign(self.core())?;
        self.core().write(batch.changes(), durability)
    }

    /// Commits a batch without waiting for it. `completion` learns its fate once it is as
    /// `durability` promises, on a thread of the store; it should not wait for anything.
    pub fn commit_async(
        &self,
        mut batch: Batch,
        durability: Durability,
        completion: impl FnOnce(Result<Lsn, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        batch.refuse_foreign(self.core())?;
        self.core()
            .write_async(batch.changes(), durability, Box::new(completion))
    }

    /// All trees as they are now, for as long as the snapshot is held.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(self.core())
    }

    /// Makes everything committed so far part of the tree on disk.
    pub fn checkpoint(&self) -> Result<Generation, Error> {
        self.core().checkpoint_now()
    }

    /// What the store holds and does.
    pub fn stats(&self) -> Stats {
        self.core().stats()
    }

    /// What the opening found broken and mended, each a sentence for the operator.
    pub fn mended(&self) -> &[String] {
        &self.core().mended
    }

    /// Which store this is: random, drawn at its creation.
    pub fn id(&self) -> [u8; 16] {
        self.core().identity.store_id
    }

    /// When the store was created, in Unix seconds.
    pub fn created_unix_s(&self) -> u64 {
        self.core().identity.created_unix_s
    }

    /// The id of the key that fingerprints are made with: equal ids compare.
    pub fn fingerprint_key_id(&self) -> u64 {
        self.core().identity.key.id()
    }

    /// Checkpoints and closes, also for the other clones. Later reads and writes through any handle
    /// (a tree, a snapshot, a range) are refused with [`Error::Closed`]; what was handed out before
    /// stays good. Dropping the last clone checkpoints too, tells nobody of an error, and refuses
    /// writes alone: a tree or a snapshot that is left goes on to be read.
    ///
    /// The file stays locked, and [`Store::open`] answers [`Error::Locked`], until everything that
    /// may still look at it is dropped: all clones of the store, its [`Tree`]s, [`Snapshot`]s,
    /// [`Range`](crate::Range)s, [`Entry`](crate::Entry)s, [`ValueRef`](crate::ValueRef)s,
    /// [`Writer`](crate::Writer)s and what they wrote. A [`Batch`] of bytes holds nothing.
    pub fn close(self) -> Result<(), Error> {
        self.inner.close(false)
    }
}

impl Inner {
    fn close(&self, reads_go_on: bool) -> Result<(), Error> {
        self.threads.stop(&self.core);
        // Also what was left by who led behind the log thread's end.
        let _telling = self.core.telling();
        if self.core.close_handles(reads_go_on) || self.core.read_only {
            return Ok(());
        }
        let fate = self.core.close();
        if let Err(error) = &fate {
            self.core.refuse_waiting(error);
        }
        fate
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without close() nobody learns of an error; the log holds all that was acknowledged. A
        // thread that panics leaves the checkpoint to the next opening, and waits for nobody.
        if std::thread::panicking() {
            self.threads.leave(&self.core);
        } else {
            let _ = self.close(true);
        }
    }
}

impl Core {
    /// Checkpoints if anything is newer than the last one, so that the next opening replays
    /// nothing.
    fn close(self: &Arc<Self>) -> Result<(), Error> {
        self.refuse_writes()?;
        let clean = {
            let state = self.state.load();
            state.active.is_empty()
                && state.frozen.is_none()
                && !self.directory.has_changes()
                && !self.checkpointer.lock().is_running()
        };
        // First, for a checkpoint may have to end early: what has joined waits for no other flush.
        self.flush_log()?;
        if !clean {
            self.checkpoint_now()?;
        }
        self.punch_at_close();
        Ok(())
    }

    fn stats(&self) -> Stats {
        let state = self.state.load();
        let usage = self.space.usage();
        let pinned = self.pinned();
        let counters = &self.counters;
        let queue = self.queue.lock();
        Stats {
            generation: state.base.generation.0,
            incarnation: self.identity.incarnation.0,
            durable_lsn: queue.durable.0,
            visible_lsn: self.visible().0,
            log_bytes: self.identity.geometry.ring_bytes,
            log_used_bytes: queue.used(),
            log_written_bytes: queue.log_bytes_written,
            file_bytes: self.disk.size().unwrap_or(usage.file_bytes),
            allocated_bytes: usage.allocated_bytes,
            retired_bytes: usage.retired_bytes,
            free_bytes: usage.free_bytes,
            memtable_bytes: state.memtables().map(|table| table.bytes()).sum(),
            memtable_ops: state.memtables().map(|table| table.ops()).sum(),
            cache_bytes: self.cache.bytes(),
            cache_hits: self.cache.hits(),
            cache_misses: self.cache.misses(),
            flushes: counters.flushes.load(Ordering::Relaxed),
            stalls: counters.stalls.load(Ordering::Relaxed),
            checkpoints: counters.checkpoints.load(Ordering::Relaxed),
            node_written_bytes: counters.node_bytes_written.load(Ordering::Relaxed),
            extent_written_bytes: counters.extent_bytes_written.load(Ordering::Relaxed),
            punched_bytes: counters.punched_bytes.load(Ordering::Relaxed),
            snapshots: self.registry.snapshots() as u64,
            snapshots_exempt: pinned.exempt,
            snapshots_expired: pinned.expired,
            snapshot_ms_oldest: pinned.oldest_ms,
            pinned_bytes: pinned.bytes,
            trees: self.directory.list().len() as u64,
            direct_io: self.disk.is_direct(),
            backend: self.pool.backend(),
            poisoned: self.refuse_writes().err().and_then(|error| match error {
                Error::Poisoned { cause, .. } => Some(cause.to_string()),
                _ => None,
            }),
        }
    }
}

pub(crate) fn open_error(error: OpenError, doing: &'static str) -> Error {
    match error {
        OpenError::Locked => Error::Locked,
        OpenError::NotAFile => Error::NotAStore("it is not a regular file"),
        OpenError::Io(error) => Error::io(doing)(error),
    }
}
