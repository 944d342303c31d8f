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
//!   they were given together: the cache grows again once a checkpoint has let go of the larger
//!   memtable.
//! - It is decided where memtables are frozen, by what was asked for since the last time. Readers
//!   who come later ask for a checkpoint ([`Memory::is_missed`]).
//! - Nothing but speed depends on it.

use crate::options::Options;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// While it loads, a store's cache has this part of its bytes. A power of two: the cache's own
/// limits are scaled with it, and come back to what they were.
const PART: u64 = 8;

/// So many operations for each node that somebody asks for are a load.
const OPS_PER_LOOKUP: u64 = 16;

/// What decides, and what was decided last.
pub(crate) struct Memory {
    cache_bytes: u64,
    memtable_bytes: u64,
    loads: AtomicBool,
    /// Nodes that had been asked for when memtables were last frozen.
    lookups: AtomicU64,
}

/// What a memtable has become when it is frozen, and what it stands on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Filled {
    pub(crate) bytes: u64,
    pub(crate) ops: u64,
    /// Bytes of all trees' nodes.
    pub(crate) node_bytes: u64,
    /// Nodes that readers have asked for since the store was opened.
    pub(crate) lookups: u64,
}

impl Memory {
    pub(crate) fn new(options: &Options) -> Self {
        let bytes = options.cache_bytes;
        Self {
            // So that its parts divide without a rest among the cache's own.
            cache_bytes: if bytes < 1 << 20 {
                bytes
            } else {
                bytes & !0xffff
            },
            memtable_bytes: options.memtable_bytes,
            loads: AtomicBool::new(false),
            lookups: AtomicU64::new(0),
        }
    }

    fn loads(&self) -> bool {
        self.loads.load(Ordering::Relaxed)
    }

    /// Bytes of nodes that the cache may hold.
    pub(crate) fn cache_bytes(&self) -> u64 {
        self.cache_bytes / if self.loads() { PART } else { 1 }
    }

    /// Bytes of newer operations that make a checkpoint due.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        let lent = self.cache_bytes - self.cache_bytes();
        self.memtable_bytes + lent / 9 * 4
    }

    /// A memtable is frozen: decides for the next.
    pub(crate) fn decide(&self, filled: Filled) {
        let before = self.lookups.swap(filled.lookups, Ordering::Relaxed);
        let asked = filled.lookups.saturating_sub(before);
        let loads = filled.bytes >= self.memtable_bytes
            && filled.node_bytes > self.cache_bytes
            && asked < filled.ops / OPS_PER_LOOKUP;
        self.loads.store(loads, Ordering::Relaxed);
    }

    /// Whether readers have come who miss the cache, beside `ops` operations since memtables were
    /// frozen.
    pub(crate) fn is_missed(&self, ops: u64, lookups: u64) -> bool {
        let asked = lookups.saturating_sub(self.lookups.load(Ordering::Relaxed));
        self.loads() && asked > ops.max(1000) / OPS_PER_LOOKUP
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
        node_bytes: CACHE + 1,
        lookups: 0,
    };

    fn memory() -> Memory {
        Memory::new(&Options {
            cache_bytes: CACHE,
            memtable_bytes: MEMTABLE,
            ..Options::default()
        })
    }

    #[test]
    fn what_both_have_together_stays_the_same() {
        let memory = memory();
        let both = || memory.cache_bytes() + memory.memtable_bytes() / 4 * 9;
        assert_eq!(
            (memory.cache_bytes(), memory.memtable_bytes()),
            (CACHE, MEMTABLE)
        );
        let before = both();
        memory.decide(LOADED);
        assert_eq!(memory.cache_bytes(), CACHE / 8);
        assert!(memory.memtable_bytes() > 4 * MEMTABLE);
        assert!(
            both() <= before && before - both() < 100,
            "{} {before}",
            both()
        );
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
            memory.decide(other);
            assert_eq!(memory.cache_bytes(), CACHE, "{other:?}");
            memory.decide(LOADED.after(other));
            assert_eq!(memory.cache_bytes(), CACHE / 8, "{other:?}");
            memory.decide(other.after(other));
            assert_eq!(memory.cache_bytes(), CACHE, "{other:?}");
        }
    }

    impl Filled {
        /// The same, later: with as many lookups again.
        fn after(self, before: Self) -> Self {
            Self {
                lookups: before.lookups + self.lookups,
                ..self
            }
        }
    }

    #[test]
    fn readers_who_come_later_are_heard() {
        let memory = memory();
        assert!(!memory.is_missed(0, 1_000_000), "the cache is whole");
        memory.decide(Filled {
            lookups: 500,
            ..LOADED
        });
        assert!(!memory.is_missed(160_000, 10_400));
        assert!(memory.is_missed(160_000, 10_600));
        assert!(!memory.is_missed(0, 501), "a lookup or two are no readers");
        assert!(memory.is_missed(0, 1000));
    }
}
