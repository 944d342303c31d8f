//! How a store is created and opened.

use crate::error::Error;
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::{Geometry, Lsn};

/// More threads than any disk has use for, and few enough that a process may have them.
const IO_THREADS_MAX: usize = 1024;

/// The smallest log of a store in a file.
const LOG_BYTES_MIN: u64 = 1 << 20;

/// The most that the format allows.
const LOG_BYTES_MAX: u64 = 1 << 40;

/// When a commit is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When it survives a power cut.
    #[default]
    Durable,
    /// When it is visible. It may be lost on kill or power cut, always as a suffix of the
    /// commits; it is flushed within about a second.
    Buffered,
}

/// Which backend the I/O pool uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// `io_uring` where the kernel allows it, threads elsewhere.
    #[default]
    Auto,
    /// Threads that call pread and pwrite.
    Threads,
}

/// Choices at creation and opening.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of tree nodes kept in memory. While more than they are is loaded in no order and hardly
    /// anybody reads, up to seven eighths of them are newer operations' instead, so that these and
    /// nodes together have no more than before.
    pub cache_bytes: u64,
    /// Bytes of newer operations kept in memory before a checkpoint is due. While one checkpoint is
    /// written the next operations gather, so it may be two and a quarter times as much, and a batch;
    /// and until nobody has written for two seconds as much stays ready for those to come (the
    /// system may take it back sooner).
    pub memtable_bytes: u64,
    /// Bytes of the log ring, fixed at creation; from 1 MiB to 1 TiB.
    pub log_bytes: u64,
    /// Bytes of an ordinary leaf, fixed at creation: 4096 doubled up to twice; none says the default,
    /// 16 KiB. A change of one entry writes a leaf, and a read that misses the cache reads one: small
    /// leaves move fewer bytes where entries are met in no order and the cache holds little of the
    /// store, in more operations of the disk, and they pack worse. Which is faster is the disk's to say.
    pub leaf_bytes: Option<u32>,
    /// What `put` and `delete` without further words mean.
    pub durability: Durability,
    /// Whether free space is given back to the file system.
    pub punch: bool,
    /// Milliseconds after which a checkpoint is due although nothing presses.
    pub checkpoint_ms: u64,
    /// The key of fingerprints, set at creation.
    pub fingerprint_key: FingerprintKey,
    /// Milliseconds after which a snapshot expires; backup, scrub and diff hold theirs as long as
    /// they need.
    pub snapshot_ms_max: u64,
    /// Bytes of space and memory that only snapshots keep from being reused; beyond it the oldest
    /// expire.
    pub snapshot_bytes_max: u64,
    /// Threads of the I/O pool, at most 1024; 0 means 1.
    pub io_threads: usize,
    /// The pool's backend.
    pub backend: Backend,
    /// Give up everything from this LSN on, which a refusal has named.
    pub accept_loss: Option<Lsn>,
    /// The sizes that the store is made of; `log_bytes` wins over its ring.
    #[doc(hidden)]
    pub geometry: Geometry,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 256 << 20,
            memtable_bytes: 64 << 20,
            log_bytes: 64 << 20,
            leaf_bytes: None,
            durability: Durability::Durable,
            punch: true,
            checkpoint_ms: 60_000,
            fingerprint_key: FingerprintKey::PUBLIC,
            snapshot_ms_max: 3_600_000,
            snapshot_bytes_max: 4 << 30,
            io_threads: 2,
            backend: Backend::Auto,
            accept_loss: None,
            geometry: Geometry::default(),
        }
    }
}

impl Options {
    /// Refuses what no machine should try. What else is wrong is met where it is used.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.io_threads > IO_THREADS_MAX {
            return Err(Error::BadOption("io_threads is at most 1024"));
        }
        Ok(())
    }

    /// The sizes of a new store.
    pub(crate) fn geometry(&self) -> Result<Geometry, Error> {
        let mut geometry = self.geometry;
        if self.log_bytes > LOG_BYTES_MAX {
            return Err(Error::BadOption("the log (log_bytes) has at most 1 TiB"));
        }
        // Small sizes are for tests, whose logs are small too.
        if geometry.unit_bytes >= 4096 && self.log_bytes < LOG_BYTES_MIN {
            return Err(Error::BadOption("the log (log_bytes) needs at least 1 MiB"));
        }
        if self.log_bytes < 16 * u64::from(geometry.log_block_bytes) {
            return Err(Error::BadOption(
                "the log (log_bytes) needs at least 16 blocks",
            ));
        }
        geometry.ring_bytes = self.log_bytes.next_multiple_of(geometry.unit());
        if let Some(bytes) = self.leaf_bytes {
            let orders = 0..=Geometry::default().leaf_order;
            let fits = |order: &u8| geometry.unit() << order == u64::from(bytes);
            geometry.leaf_order = orders
                .into_iter()
                .find(fits)
                .ok_or(Error::BadOption("a leaf has 4096, 8192 or 16384 bytes"))?;
        }
        geometry
            .validate()
            .map_err(|_| Error::BadOption("the sizes of the store do not fit each other"))?;
        Ok(geometry)
    }
}
