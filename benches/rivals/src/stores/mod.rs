//! The stores, a file each.

mod bare;
#[cfg(feature = "canopydb")]
mod canopydb;
#[cfg(feature = "fjall")]
mod fjall;
mod grouped;
#[cfg(feature = "lmdb")]
mod lmdb;
mod ours;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sled")]
mod sled;
#[cfg(feature = "sqlite")]
mod sqlite;

use crate::rival::{Rival, Setup};

pub(crate) use ours::{Ours, open_ours};

/// What a store's figures count as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// Dynomite.
    Ours,
    /// A rival.
    Rival,
    /// A rival that takes part in the rows where it keeps the same promise: it never flushes the
    /// device, so its durable rows are shown and not counted.
    NeverFlushes,
    /// A rival behind a queue whose leader commits for all: rows with several durable writers.
    Grouped,
    /// The same store opened otherwise: only the rows that say so.
    Variant,
    /// No store: the device under the same bytes.
    Bare,
}

/// A store that can be opened.
pub(crate) struct Store {
    /// What it is called in results.
    pub(crate) name: &'static str,
    /// What its figures count as.
    pub(crate) part: Part,
    /// Opens or creates it.
    pub(crate) open: fn(&Setup) -> Box<dyn Rival>,
}

/// Ours.
pub(crate) const OURS: &str = "dynomite";
/// The bare disk.
pub(crate) const BARE: &str = "bare disk";
/// LMDB opened with `MDB_NORDAHEAD`.
#[cfg(feature = "lmdb")]
pub(crate) const LMDB_NO_READ_AHEAD: &str = "lmdb-nordahead";

/// All that this program was built with.
pub(crate) const STORES: &[Store] = &[
    Store {
        name: OURS,
        part: Part::Ours,
        open: ours::open,
    },
    Store {
        name: BARE,
        part: Part::Bare,
        open: bare::open,
    },
    #[cfg(feature = "lmdb")]
    Store {
        name: "lmdb",
        part: Part::Rival,
        open: lmdb::open,
    },
    #[cfg(feature = "lmdb")]
    Store {
        name: LMDB_NO_READ_AHEAD,
        part: Part::Variant,
        open: lmdb::open,
    },
    #[cfg(feature = "redb")]
    Store {
        name: "redb",
        part: Part::Rival,
        open: redb::open,
    },
    #[cfg(feature = "rocksdb")]
    Store {
        name: "rocksdb",
        part: Part::Rival,
        open: rocksdb::open,
    },
    #[cfg(feature = "fjall")]
    Store {
        name: "fjall",
        part: Part::Rival,
        open: fjall::open,
    },
    #[cfg(feature = "sqlite")]
    Store {
        name: "sqlite",
        part: Part::Rival,
        open: sqlite::open,
    },
    #[cfg(feature = "canopydb")]
    Store {
        name: "canopydb",
        part: Part::Rival,
        open: canopydb::open,
    },
    #[cfg(feature = "sled")]
    Store {
        name: "sled",
        part: Part::NeverFlushes,
        open: sled::open,
    },
    #[cfg(feature = "lmdb")]
    Store {
        name: "lmdb+queue",
        part: Part::Grouped,
        open: |setup| grouped::open(lmdb::open(setup)),
    },
    #[cfg(feature = "redb")]
    Store {
        name: "redb+queue",
        part: Part::Grouped,
        open: |setup| grouped::open(redb::open(setup)),
    },
    #[cfg(feature = "fjall")]
    Store {
        name: "fjall+queue",
        part: Part::Grouped,
        open: |setup| grouped::open(fjall::open(setup)),
    },
];

/// A store of this name.
pub(crate) fn find(name: &str) -> Option<&'static Store> {
    STORES.iter().find(|store| store.name == name)
}
