//! How a store is created and opened.

use crate::error::Error;
use dmerkle::fingerprint::FingerprintKey;
use dmerkle::{Geometry, Lsn};

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
    /// Bytes of tree nodes kept in memory.
    pub cache_bytes: u64,
    /// Bytes of newer operations kept in memory before a checkpoint is due. While one checkpoint is
    /// written the next operations gather, so it may be twice as much; and until nobody has written
    /// for two seconds as much stays ready for those to come (the system may take it back sooner).
    pub memtable_bytes: u64,
    /// Bytes of the log ring, fixed at creation; from 1 MiB.
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
    /// Threads of the I/O pool.
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
    /// The sizes of a new store.
    pub(crate) fn geometry(&self) -> Result<Geometry, Error> {
        let mut geometry = self.geometry;
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
        if geometry.unit_bytes >= 4096 && geometry.ring_bytes < 1 << 20 {
            return Err(Error::BadOption("the log needs at least 1 MiB"));
        }
        Ok(geometry)
    }
}
