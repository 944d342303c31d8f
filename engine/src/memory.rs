//! Who has the memory: tree nodes, or newer operations.
//!
//! Operations in no order change nearly as many leaves as they are, until there are several for
//! each: in a store much larger than its memory a checkpoint reads and writes 16 KiB for every
//! operation or two, and larger memtables are what helps. Nodes do not: the next checkpoint comes to
//! other leaves. So while such a store is loaded and hardly read, memtables have most of what is the
//! cache's otherwise.
//!
//! Invariants:
//! - Cache and memtables (two and a quarter, see [`Options::memtable_bytes`]) never have more than
//!   they were given together, but for what a recovery finds: the cache gives up before memtables
//!   take, and gets back once a checkpoint has let go of the larger memtable.
//! - Nothing is lent that would not be used: by operations in order, by a log that has no room for
//!   them, or to a single memtable's worth. A warm cache is worth more than that.
//! - It is decided where memtables are frozen, by what was asked for since the last time. Readers
//!   who come later ask for a checkpoint ([`Memory::is_missed`]); a store that makes none any more
//!   (it only reads, or has failed) stays as it is.
//! - Nothing but speed depends on it.

use crate::io::gives_back;
use crate::options::Options;
use dmerkle::Geometry;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The parts of its bytes that the cache may be left with, smallest first. Powers of two: its own
/// limits are scaled with it, and come back to what they were.
const PARTS: [u64; 3] = [8, 4, 2];

/// So many operations for each node that somebody asks for are a load.
const OPS_PER_LOOKUP: u64 = 16;

/// Memtables in a row that have filled up with a load.
const FULL_MIN: u32 = 2;

/// What decides, and what was decided last.
pub(crate) struct Memory {
    cache_bytes: u64,
    memtable_bytes: u64,
    /// Whether what the cache gives up goes back to the system.
    lends: bool,
    /// The cache has one of so many parts of its bytes.
    part: AtomicU64,
    /// Nodes that had been asked for when memtables were last frozen.
    lookups: AtomicU64,
    /// Whether the last checkpoint replaced more bytes of nodes than its operations had, by more: in
    /// order they add leaves, or take some away, or fill those that they replace.
    scattered: AtomicBool,
    /// Memtables in a row that a load has filled.
    full: AtomicU32,
}

/// What a memtable has become when it is frozen, and what it stands on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) bytes: u64,
    pub(crate) ops: u64,
    /// Bytes of the log that its operations take.
    pub(crate) log_bytes: u64,
    /// Bytes of the log that make a checkpoint due.
    pub(crate) log_bytes_due: u64,
    /// Bytes of all trees' nodes.
    pub(crate) node_bytes: u64,
    /// Nodes that readers have asked for since the store was opened.
    pub(crate) lookups: u64,
}

impl Memory {
    /// Of a store whose recovery has put `replayed_bytes` into its memtable.
    pub(crate) fn new(options: &Options, geometry: &Geometry, replayed_bytes: u64) -> Self {
        let bytes = options.cache_bytes;
        // What was replayed may be what a load had been lent, until the next checkpoint.
        let over = u128::from(replayed_bytes) * 4 / 9;
        let fits = |part: u64| {
            let lent = u128::from(bytes - bytes / part) * 4 / 9;
            over <= u128::from(options.memtable_bytes) + lent
        };
        let part = [1, 2, 4, 8].into_iter().find(|part| fits(*part));
        Self {
            // So that its parts divide without a rest among the cache's own.
            cache_bytes: if bytes < 1 << 20 {
                bytes
            } else {
                bytes & !0xffff
            },
            memtable_bytes: options.memtable_bytes,
            lends: gives_back(geometry.unit() << geometry.leaf_order),
            part: AtomicU64::new(part.unwrap_or(PARTS[0])),
            lookups: AtomicU64::new(0),
            scattered: AtomicBool::new(false),
            full: AtomicU32::new(0),
        }
    }

    /// Bytes of nodes that the cache may hold where nothing is lent.
    pub(crate) fn cache_bytes_max(&self) -> u64 {
        self.cache_bytes
    }

    /// Bytes of nodes that the cache may hold.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes / self.part.load(Ordering::Relaxed)
    }

    /// Bytes of newer operations that make a checkpoint due.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        self.memtable_bytes_with(self.part.load(Ordering::Relaxed))
    }

    /// The same, if the cache has one of `part` parts.
    pub(crate) fn memtable_bytes_with(&self, part: u64) -> u64 {
        let lent = self.cache_bytes - self.cache_bytes / part;
        self.memtable_bytes + lent / 9 * 4
    }

    /// A memtable is about to be frozen: the part of its bytes that the cache will be left with. Asked
    /// once, and [`Memory::share`]d when nobody writes to that memtable any more.
    pub(crate) fn choose(&self, filled: Filled) -> u64 {
        let before = self.lookups.swap(filled.lookups, Ordering::Relaxed);
        let asked = filled.lookups.saturating_sub(before);
        let loads = filled.bytes >= self.memtable_bytes
            // What a recovery found may be more than a load fills.
            && filled.bytes / 3 * 2 <= self.memtable_bytes()
            && filled.node_bytes > self.cache_bytes
            && asked < filled.ops / OPS_PER_LOOKUP
            && self.scattered.load(Ordering::Relaxed);
        let full = if loads {
            self.full.load(Ordering::Relaxed).saturating_add(1)
        } else {
            0
        };
        self.full.store(full, Ordering::Relaxed);
        if !self.lends || full < FULL_MIN {
            return 1;
        }
        let bytes_due = u128::from(filled.bytes) * u128::from(filled.log_bytes_due)
            / u128::from(filled.log_bytes.max(1));
        let fits = |part: &u64| u128::from(self.memtable_bytes_with(*part)) <= bytes_due;
        PARTS.into_iter().find(fits).unwrap_or(1)
    }

    /// The cache has that part from now on: `hold` has it hold no more than so many bytes, before
    /// memtables take.
    pub(crate) fn share(&self, part: u64, hold: impl FnOnce(u64)) {
        hold(self.cache_bytes / part);
        self.part.store(part, Ordering::Relaxed);
    }

    /// A checkpoint of so many bytes of operations has replaced so many bytes of nodes by so many.
    pub(crate) fn learn(&self, ops_bytes: u64, replaced: u64, placed: u64) {
        let scattered = replaced.min(placed) > ops_bytes;
        self.scattered.store(scattered, Ordering::Relaxed);
    }

    /// Whether readers have come who miss the cache, beside `ops` operations since memtables were
    /// frozen.
    pub(crate) fn is_missed(&self, ops: u64, lookups: u64) -> bool {
        let asked = lookups.saturating_sub(self.lookups.load(Ordering::Relaxed));
        self.part.load(Ordering::Relaxed) > 1 && asked > ops.max(1000) / OPS_PER_LOOKUP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 160 << 20;
    const MEMTABLE: u64 = 20 << 20;

    const LOADED: Filled = Filled {
        bytes: MEMTABLE,
        ops: 16_000,
        log_bytes: MEMTABLE,
        log_bytes_due: 1 << 30,
        node_bytes: CACHE + 1,
        lookups: 0,
    };

    fn memory_after(replayed_bytes: u64) -> Memory {
        let options = Options {
            cache_bytes: CACHE,
            memtable_bytes: MEMTABLE,
            ..Options::default()
        };
        let mut memory = Memory::new(&options, &Geometry::default(), replayed_bytes);
        memory.lends = true; // whatever this machine's pages are
        memory
    }

    /// One whose last checkpoint replaced all leaves.
    fn memory() -> Memory {
        let memory = memory_after(0);
        memory.learn(MEMTABLE, CACHE, CACHE);
        memory
    }

    impl Memory {
        /// The part that the cache is left with.
        fn decided(&self, filled: Filled) -> u64 {
            self.share(self.choose(filled), |bytes| assert!(bytes <= CACHE));
            CACHE / self.cache_bytes()
        }
    }

    #[test]
    fn what_both_have_together_stays_the_same_and_the_cache_gives_first() {
        let memory = memory();
        let both = || memory.cache_bytes() + memory.memtable_bytes() / 4 * 9;
        assert_eq!(memory.memtable_bytes(), MEMTABLE);
        let before = both();
        assert_eq!(memory.decided(LOADED), 1);
        let part = memory.choose(LOADED);
        memory.share(part, |bytes| {
            assert_eq!(bytes, CACHE / 8);
            assert_eq!(memory.memtable_bytes(), MEMTABLE, "nobody has taken yet");
        });
        assert_eq!(memory.cache_bytes(), CACHE / 8);
        assert!(memory.memtable_bytes() > 4 * MEMTABLE);
        assert!(both() <= before && before - both() < 100, "{}", both());
    }

    #[test]
    fn only_a_load_into_more_than_the_cache_holds_counts() {
        let others = [
            Filled {
                bytes: MEMTABLE - 1,
                ..LOADED
            },
            Filled {
                node_bytes: CACHE,
                ..LOADED
            },
            Filled {
                lookups: 1000,
                ..LOADED
            },
        ];
        for other in others {
            let memory = memory();
            let later = |nth: u64, filled: Filled| Filled {
                lookups: nth * other.lookups,
                ..filled
            };
            let parts = [
                memory.decided(LOADED),
                memory.decided(later(1, other)),
                memory.decided(later(1, LOADED)),
                memory.decided(later(1, LOADED)),
                memory.decided(later(2, other)),
            ];
            assert_eq!(parts, [1, 1, 1, 8, 1], "{other:?}");
        }
    }

    #[test]
    fn nothing_is_lent_to_operations_in_order() {
        let memory = memory();
        // Overwriting, inserting, deleting.
        for (replaced, placed) in [(MEMTABLE, MEMTABLE), (0, CACHE), (CACHE, 0)] {
            memory.learn(MEMTABLE, replaced, placed);
            assert_eq!([LOADED; 3].map(|filled| memory.decided(filled)), [1; 3]);
        }
    }

    #[test]
    fn no_more_is_lent_than_the_log_has_room_for() {
        // With an eighth, a quarter and half of the cache: 82, 73 and 55 MiB.
        for (due_mib, part) in [(90, 8), (80, 4), (60, 2), (50, 1)] {
            let memory = memory();
            let filled = Filled {
                log_bytes: MEMTABLE / 2,
                log_bytes_due: (due_mib << 20) / 2,
                ..LOADED
            };
            memory.decided(filled);
            assert_eq!(memory.decided(filled), part, "{due_mib} MiB");
        }
    }

    #[test]
    fn after_a_load_that_was_cut_off_the_cache_waits_for_its_memtable() {
        let memory = memory_after(9 * MEMTABLE);
        memory.learn(MEMTABLE, CACHE, CACHE);
        assert_eq!(memory.cache_bytes(), CACHE / 8);
        let replayed = Filled {
            bytes: 9 * MEMTABLE,
            ..LOADED
        };
        memory.decided(LOADED);
        assert_eq!(memory.decided(replayed), 1);
        // A little more than memtables have by themselves takes no more than half.
        assert_eq!(memory_after(2 * MEMTABLE).cache_bytes(), CACHE);
        assert_eq!(memory_after(5 * MEMTABLE / 2).cache_bytes(), CACHE / 2);
    }

    #[test]
    fn readers_who_come_later_are_heard() {
        let memory = memory();
        assert!(!memory.is_missed(0, 1_000_000), "the cache is whole");
        memory.decided(LOADED);
        memory.decided(Filled {
            lookups: 500,
            ..LOADED
        });
        assert!(!memory.is_missed(160_000, 10_400));
        assert!(memory.is_missed(160_000, 10_600));
        assert!(!memory.is_missed(0, 501), "a lookup or two are no readers");
        assert!(memory.is_missed(0, 1000));
    }
}
