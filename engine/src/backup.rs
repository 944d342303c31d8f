//! A consistent copy of a store, made while the store is used.
//!
//! Invariants:
//! - Under the final name there is a whole store or nothing: the copy grows under another name, and
//!   gets its own once it is durable and every tree's fingerprint is the original's.
//! - Memory is bounded: parts are streamed, and a batch's worth of entries is held.
//! - What is read is verified before it is written; what is damaged ends the copy, and is named.
//! - The copy takes no more of the disk than what it holds: of its log only the live stretch is
//!   there, for its stamp tells that the older superblock must not be opened. The rest is a hole
//!   until the copy is opened for writing.

use crate::batch::{Batch, NewEntry, NewPart};
use crate::core::Core;
use crate::creation::Ring;
use crate::entry::Entry;
use crate::error::Error;
use crate::extents::Written;
use crate::io::Disk;
use crate::options::{Durability, Options};
use crate::planted::{self, Bug};
use crate::scrub::Pace;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tree::Tree;
use crate::unfinished::Unfinished;
use crate::world::World;
use dmerkle::error::Fault;
use dmerkle::format::body::INLINE_ALWAYS_BYTES;
use dmerkle::{Corrupt, Lsn, Structure};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

/// What the copy's memtables may hold: a checkpoint every so many bytes.
const MEMTABLE_BYTES: u64 = 16 << 20;

/// What the copy may cache: it is written in the order of its keys, so little is met again.
const CACHE_BYTES: u64 = 16 << 20;

/// Entries of one batch.
const BATCH_ENTRIES: usize = 1000;

/// Bytes of parts with units of their own in one batch, unless one entry has more.
const BATCH_EXTENT_BYTES: u64 = 32 << 20;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Everything up to this LSN of the original is in the copy.
    pub lsn: Lsn,
    /// Trees.
    pub trees: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of keys, metas and parts.
    pub bytes: u64,
}

impl Store {
    /// Makes a consistent copy in a new file at `path`, while this store is used; gives way to
    /// commits. The copy has the same trees, geometry and fingerprint key, and is durable when this
    /// returns. If it fails there is no file at `path`.
    ///
    /// The space of what the snapshot shows is not reused before this returns.
    pub fn backup(&self, path: impl AsRef<Path>) -> Result<BackupReport, Error> {
        let path = path.as_ref();
        let mut unfinished = Unfinished::claim(path, "making the copy's file")?;
        let (report, copy) = self.copy_to(&mut unfinished)?;
        unfinished.name(path, "naming the copy")?;
        // Locked until it has its name: another backup to this place must not take it for one that
        // was left behind.
        drop(copy);
        Ok(report)
    }

    /// [`Store::backup`] on a disk of the caller's, without any thread.
    #[doc(hidden)]
    pub fn backup_on(&self, disk: Arc<dyn Disk>, world: World) -> Result<BackupReport, Error> {
        let options = self.copy_options();
        Self::format_on(disk.as_ref(), &world, &options)?;
        let copy = Self::open_on(disk, world, &options)?;
        let report = self.copy_into(&copy)?;
        copy.close()?;
        Ok(report)
    }

    /// Makes the copy. Whoever has what is given beside the report keeps it locked.
    pub(crate) fn copy_to(
        &self,
        unfinished: &mut Unfinished,
    ) -> Result<(BackupReport, Arc<Core>), Error> {
        let copy = Store::create_with(unfinished.path(), &self.copy_options(), Ring::Hole)?;
        unfinished.made();
        let path = unfinished.path();
        let report = self.copy_into(&copy)?;
        let written = Arc::clone(copy.core());
        copy.close().map_err(of_copy)?;
        empty_ring(&written);
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(Error::io("flushing the copy"))?;
        Ok((report, written))
    }

    fn copy_options(&self) -> Options {
        let core = self.core();
        Options {
            cache_bytes: CACHE_BYTES,
            memtable_bytes: MEMTABLE_BYTES,
            log_bytes: core.identity.geometry.ring_bytes,
            durability: Durability::Buffered,
            fingerprint_key: core.identity.key.clone(),
            accept_loss: None,
            geometry: core.identity.geometry,
            ..core.options.clone()
        }
    }

    fn copy_into(&self, copy: &Store) -> Result<BackupReport, Error> {
        let core = self.core();
        let (snapshot, names) = loop {
            // Trees are created and dropped under this lock, and what was created or dropped is
            // visible: the names are the snapshot's.
            let queue = core.queue.lock();
            let changed = core.directory.last_change();
            if changed <= core.visible() {
                break (Snapshot::take(core), core.directory.list());
            }
            drop(queue);
            core.flush_log_to(changed)?;
        };
        let _exempt = snapshot.exempt();
        let mut report = BackupReport {
            lsn: snapshot.lsn(),
            ..BackupReport::default()
        };
        let mut pace = Pace::new(core);
        for (name, id) in &names {
            let tree = Tree::shown(core, *id);
            let into = copy.create_tree(name).map_err(of_copy)?;
            let mut copying = Copying {
                copy,
                name,
                into: &into,
                limit: copy.core().queue.lock().batch_bytes_max() / 2,
                batch: Batch::new(),
                record_bytes: 0,
                extent_bytes: 0,
            };
            for entry in snapshot.range(&tree, &[], None) {
                let entry = entry.map_err(|error| damaged(name, None, error))?;
                report.entries += 1;
                report.bytes += copying.take(&entry, &mut pace)?;
            }
            if !planted::has(Bug::BackupLosesTail) {
                copying.commit()?;
            }
            report.trees += 1;
            pace.rest()?;
        }
        copy.checkpoint().map_err(of_copy)?;
        for (name, id) in &names {
            let original = snapshot.fingerprint(&Tree::shown(core, *id), &[], None)?;
            let copied = copy.tree(name)?.fingerprint(&[], None)?;
            if copied != original && !planted::has(Bug::BackupLosesTail) {
                return Err(Error::CopyDiffers { tree: name.clone() });
            }
        }
        Ok(report)
    }
}

/// Entries on their way into one tree of the copy.
struct Copying<'a> {
    copy: &'a Store,
    /// The tree's name.
    name: &'a [u8],
    into: &'a Tree,
    /// Bytes of records in one batch, unless one entry has more.
    limit: u64,
    batch: Batch,
    record_bytes: u64,
    extent_bytes: u64,
}

impl Copying<'_> {
    /// Takes an entry. Returns its bytes.
    fn take(&mut self, entry: &Entry, pace: &mut Pace<'_>) -> Result<u64, Error> {
        let lengths: Vec<u64> = (0..entry.parts_len())
            .filter_map(|index| entry.part_length(index))
            .collect();
        let is_inline = |length: &u64| *length <= INLINE_ALWAYS_BYTES as u64;
        // A reference with its checksums takes less than a part that is just inline.
        let record_bytes: u64 = 64
            + (entry.key().len() + entry.meta().len()) as u64
            + lengths
                .iter()
                .map(|length| 16 + length.min(&(INLINE_ALWAYS_BYTES as u64)))
                .sum::<u64>();
        let extent_bytes: u64 = lengths.iter().filter(|length| !is_inline(length)).sum();
        if self.batch.len() >= BATCH_ENTRIES
            || self.record_bytes + record_bytes > self.limit
            || self.extent_bytes + extent_bytes > BATCH_EXTENT_BYTES
        {
            self.commit()?;
            pace.rest()?;
        }
        let mut new = NewEntry::with_meta(entry.meta());
        for (index, length) in lengths.iter().enumerate() {
            new = new.part(if is_inline(length) {
                let bytes = entry.part(index);
                let bytes = bytes.map_err(|error| self.damaged(entry, error))?;
                NewPart::Bytes(bytes.unwrap_or_default())
            } else {
                NewPart::Written(self.stream(entry, index, *length, pace)?)
            });
        }
        self.batch.put_entry(self.into, entry.key(), new);
        self.record_bytes += record_bytes;
        self.extent_bytes += extent_bytes;
        Ok((entry.key().len() + entry.meta().len()) as u64 + lengths.iter().sum::<u64>())
    }

    /// Copies one part, piece by piece.
    fn stream(
        &self,
        entry: &Entry,
        index: usize,
        length: u64,
        pace: &mut Pace<'_>,
    ) -> Result<Written, Error> {
        let mut reader = entry
            .part_reader(index)
            .expect("the part was counted before");
        let mut writer = self.into.writer(length).map_err(of_copy)?;
        let bytes = usize::try_from(length).map_or(PIECE_BYTES, |all| all.min(PIECE_BYTES));
        let mut piece = vec![0; bytes];
        while writer.missing() > 0 {
            let got = reader.read(&mut piece);
            let got = got.map_err(|error| self.damaged(entry, Error::of_reader(error)))?;
            assert!(got > 0, "a part has as many bytes as its entry says");
            writer.push(&piece[..got]).map_err(of_copy)?;
            if length > PIECE_BYTES as u64 {
                pace.rest()?;
            }
        }
        let written = writer.finish().map_err(of_copy)?;
        if entry.part_hash(index) != Some(written.hash()) {
            let corrupt = Corrupt::new(Structure::Extent, Fault::Hash);
            return Err(self.damaged(entry, corrupt.into()));
        }
        Ok(written)
    }

    fn damaged(&self, entry: &Entry, error: Error) -> Error {
        damaged(self.name, Some(entry.key()), error)
    }

    fn commit(&mut self) -> Result<(), Error> {
        let batch = std::mem::take(&mut self.batch);
        self.record_bytes = 0;
        self.extent_bytes = 0;
        let committed = self.copy.commit(batch, Durability::Buffered);
        committed.map(|_| ()).map_err(of_copy)
    }
}

/// Names the tree and the key of what is damaged.
fn damaged(tree: &[u8], key: Option<&[u8]>, error: Error) -> Error {
    if !error.is_damage() {
        return error;
    }
    Error::Damaged {
        tree: tree.to_vec(),
        key: key.map(<[u8]>::to_vec),
        source: Arc::new(error),
    }
}

/// A fault of the copy, which is thrown away: that it takes no more writes is nobody's concern.
fn of_copy(error: Error) -> Error {
    match error {
        Error::Poisoned { cause, .. } => {
            Error::io("writing the copy")(io::Error::other(cause.to_string()))
        }
        other => other,
    }
}

/// Gives back the space of the log, but for its live stretch. Where the file system cannot, the
/// copy is larger, and no worse.
fn empty_ring(copy: &Core) {
    let geometry = &copy.identity.geometry;
    let (tail, used) = {
        let queue = copy.queue.lock();
        (queue.tail, queue.used())
    };
    let (ring, unit) = (geometry.ring_bytes, geometry.unit());
    let free_start = (tail.0 + used).next_multiple_of(unit);
    let free_end = tail.0 - tail.0 % unit + ring;
    let mut at = free_start;
    while at < free_end {
        let to_end = ring - at % ring;
        let bytes = (free_end - at).min(to_end);
        if copy
            .disk
            .punch(geometry.log_offset(Lsn(at)), bytes)
            .is_err()
        {
            return;
        }
        at += bytes;
    }
}
