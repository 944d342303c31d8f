//! What the store counts.

use std::sync::atomic::AtomicU64;

/// Counters that every part adds to.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Flushes of the log.
    pub(crate) flushes: AtomicU64,
    /// Rounds that writers waited for a checkpoint (of at most 50 ms each) or a flush.
    pub(crate) stalls: AtomicU64,
    /// Checkpoints finished.
    pub(crate) checkpoints: AtomicU64,
    /// Bytes of tree nodes written.
    pub(crate) node_bytes_written: AtomicU64,
    /// Bytes of extents written, padding included.
    pub(crate) extent_bytes_written: AtomicU64,
    /// Bytes given back to the file system.
    pub(crate) punched_bytes: AtomicU64,
}

/// What a store is doing and what it holds.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Stats {
    /// The newest checkpoint.
    pub generation: u64,
    /// Which opening for writing this is.
    pub incarnation: u64,
    /// Everything below this LSN is durable.
    pub durable_lsn: u64,
    /// What readers see.
    pub visible_lsn: u64,
    /// Bytes of the log ring.
    pub log_bytes: u64,
    /// Bytes of it in use.
    pub log_used_bytes: u64,
    /// Bytes of log written since the store was opened.
    pub log_written_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes allocated: tree nodes, extents, and what waits to be released.
    pub allocated_bytes: u64,
    /// Bytes of allocated space that wait for a stamp, a snapshot or the log.
    pub retired_bytes: u64,
    /// Free bytes inside the regions.
    pub free_bytes: u64,
    /// Bytes held by the memtables.
    pub memtable_bytes: u64,
    /// Operations in the memtables.
    pub memtable_ops: u64,
    /// Bytes of nodes in the cache.
    pub cache_bytes: u64,
    /// Lookups that the cache answered.
    pub cache_hits: u64,
    /// Lookups that it did not.
    pub cache_misses: u64,
    /// Flushes of the log.
    pub flushes: u64,
    /// Rounds that writers waited for a checkpoint (of at most 50 ms each) or a flush. Being slowed
    /// down before does not count.
    pub stalls: u64,
    /// Checkpoints since the store was opened.
    pub checkpoints: u64,
    /// Bytes of tree nodes written since then.
    pub node_written_bytes: u64,
    /// Bytes of extents written since then, padding included.
    pub extent_written_bytes: u64,
    /// Bytes given back to the file system since then.
    pub punched_bytes: u64,
    /// Snapshots held.
    pub snapshots: u64,
    /// Those of them that do not expire: of backup, scrub and diff.
    pub snapshots_exempt: u64,
    /// Snapshots that expired since the store was opened.
    pub snapshots_expired: u64,
    /// For how long the oldest snapshot has been held.
    pub snapshot_ms_oldest: u64,
    /// Bytes of space and memory that only readers keep: snapshots, entries and buffers.
    pub pinned_bytes: u64,
    /// Trees.
    pub trees: u64,
    /// Whether reads and writes bypass the page cache.
    pub direct_io: bool,
    /// The I/O pool's backend.
    pub backend: &'static str,
    /// Why the store takes no more writes, if so.
    pub poisoned: Option<String>,
}
