//! # engine: how the bytes survive
//!
//! A [`Store`] is one file of many named trees, crash-safe, with one log and one allocator. What
//! its bytes mean is `dmerkle`'s business.
//!
//! ```
//! use engine::{Durability, Error, Options, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("pictures.dynomite");
//! let options = Options {
//!     log_bytes: 4 << 20, // fixed when the store is created
//!     ..Options::default()
//! };
//! let store = Store::create(&path, &options)?; // the next time: Store::open
//! let pictures = store.tree_or_create(b"pictures")?;
//!
//! // When this returns it survives a power cut.
//! pictures.put(b"cat", b"meow")?;
//! assert_eq!(pictures.get(b"cat")?.as_deref(), Some(&b"meow"[..]));
//!
//! let snapshot = store.snapshot();
//!
//! // All of it or nothing. Buffered: visible at once, on the disk within about a second.
//! let mut batch = store.batch();
//! batch.put(&pictures, b"dog", b"woof").delete(&pictures, b"cat");
//! store.commit(batch, Durability::Buffered)?;
//! assert!(!pictures.has(b"cat")?);
//! assert!(snapshot.has(&pictures, b"cat")?, "it shows what was there when it was taken");
//!
//! for entry in pictures.range(b"d", Some(b"e")) {
//!     let entry = entry?;
//!     assert_eq!((entry.key(), entry.part(0)?.as_deref()), (&b"dog"[..], Some(&b"woof"[..])));
//! }
//!
//! // From here on all handles are refused; the file is free once they are dropped.
//! store.close()?;
//! assert!(matches!(pictures.get(b"dog"), Err(Error::Closed)));
//! drop((pictures, snapshot));
//! let store = Store::open(&path, &options)?;
//! assert_eq!(store.tree(b"pictures")?.count()?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Where to look:
//! - a commit: `write` encodes, `queue` orders, `lead` writes and flushes, `memtable` shows;
//! - a read: `view` and `snapshot`, over `memtable`, `cache` and `extents`; one that never waits:
//!   `answers`; many at once: `many`;
//! - a checkpoint: `checkpoint` on the `ground`, to which nodes are `coming` ahead, with `space` and
//!   [`alloc`] below it; `medium` moves values of a few KiB from the log to extents;
//! - an opening: `recovery`, with `replay` for the log; a creation: `creation`;
//! - a store that looks at itself: `verify`, over `scrub` and `units`; that copies itself: `backup`;
//! - the disk: [`io`]; time and chance: [`world`]; the threads, which decide nothing: `threads`.

#[cfg(not(all(
    target_os = "linux",
    target_endian = "little",
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
compile_error!(
    "Dynomite runs on 64-bit little-endian Linux, on x86-64 and aarch64: what it promises of \
     crashes was shown on the first only. `dmerkle`, which reads the format, builds anywhere."
);

pub mod alloc;
mod answers;
mod audit;
mod backup;
mod batch;
mod cache;
mod checkpoint;
mod coming;
mod core;
mod creation;
mod directory;
mod entry;
mod error;
mod extents;
mod gather;
mod ground;
pub mod io;
mod lead;
mod many;
mod medium;
mod memory;
mod memtable;
mod options;
mod pins;
#[doc(hidden)]
pub mod planted;
mod promise;
mod punch;
mod queue;
mod range;
mod reads;
mod recovery;
mod replay;
mod scrub;
mod snapshot;
mod space;
mod state;
mod stats;
mod store;
mod sums;
mod sync;
mod threads;
mod tree;
mod turnover;
mod unfinished;
mod units;
mod value;
mod verify;
mod view;
pub mod world;
mod write;

pub use backup::BackupReport;
pub use batch::{Batch, NewEntry, NewPart};
pub use entry::{Entry, EntryRef, Reader};
pub use error::Error;
pub use extents::Written;
pub use options::{Backend, Durability, Options};
pub use range::{Range, SnapshotContents};
pub use snapshot::Snapshot;
pub use stats::Stats;
pub use store::{Store, TreeInfo};
pub use tree::{Tree, Writer};
pub use value::ValueRef;
pub use verify::{Report, Violation};
pub use write::Decision;

pub use dmerkle::diff::Difference;
pub use dmerkle::fingerprint::FingerprintKey;
pub use dmerkle::{Geometry, Lsn, Summary, TreeId};
