//! A named tree of a store.

use crate::batch::{Batch, Change, NewEntry};
use crate::core::Core;
use crate::directory::Dropped;
use crate::entry::{Entry, EntryRef};
use crate::error::Error;
use crate::extents::{ExtentWriter, Written, read_extent};
use crate::io::Writes;
use crate::options::Durability;
use crate::planted::{self, Bug};
use crate::range::Range;
use crate::snapshot::Snapshot;
use crate::view::View;
use crate::write::Decision;
use dmerkle::format::body::{BodyRef, INLINE_ALWAYS_BYTES, PartRef};
use dmerkle::{Lsn, Summary, TreeId};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a delete takes in a record beside its key, generously.
const DELETE_BYTES: usize = 32;

/// What a store says to a tree that is not its own.
pub(crate) const FOREIGN: &str = "the tree belongs to another store";

/// A tree: keys in the order of their bytes, each with an entry. Cheap to clone.
#[derive(Clone)]
pub struct Tree {
    core: Arc<Core>,
    /// The core's, kept here for batches to compare.
    store: u64,
    id: TreeId,
    dropped: Arc<Dropped>,
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tree({})", self.id)
    }
}

impl Tree {
    /// The handle of a tree that is or was there.
    pub(crate) fn new(core: &Arc<Core>, id: TreeId) -> Self {
        let dropped = core.directory.dropped_flag(id);
        // Of one that is gone by now nobody knows since when: no snapshot shows it to this handle.
        let dropped = dropped.unwrap_or_else(|| Arc::new(Dropped::at(Lsn(0))));
        Self::with(core, id, dropped)
    }

    /// The handle of a tree that a snapshot shows, whatever has become of it since: to read it
    /// through that snapshot alone.
    pub(crate) fn shown(core: &Arc<Core>, id: TreeId) -> Self {
        Self::with(core, id, Arc::new(Dropped::not_yet()))
    }

    fn with(core: &Arc<Core>, id: TreeId, dropped: Arc<Dropped>) -> Self {
        Self {
            core: Arc::clone(core),
            store: core.number,
            id,
            dropped,
        }
    }

    /// A dropped tree is read only through snapshots that were taken before, and a tree of a closed
    /// store not at all.
    pub(crate) fn refuse_dropped(&self) -> Result<(), Error> {
        if self.dropped.is() {
            self.core.refuse_closed()?;
            return Err(Error::NoSuchTree);
        }
        Ok(())
    }

    /// Refuses it in a snapshot that was taken after its drop.
    pub(crate) fn refuse_dropped_before(&self, lsn: Lsn) -> Result<(), Error> {
        if self.dropped.is_seen_from(lsn) {
            self.core.refuse_closed()?;
            return Err(Error::NoSuchTree);
        }
        Ok(())
    }

    /// In another store its id is another tree's.
    pub(crate) fn refuse_foreign(&self, core: &Core) -> Result<(), Error> {
        if self.store != core.number {
            return Err(Error::BadOption(FOREIGN));
        }
        Ok(())
    }

    /// The number of its store, see [`Core::number`].
    pub(crate) fn store_number(&self) -> u64 {
        self.store
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The tree's id, never used twice in a store.
    pub fn id(&self) -> TreeId {
        self.id
    }

    /// The tree's name, unless it was dropped.
    pub fn name(&self) -> Option<Vec<u8>> {
        self.core.directory.name_of(self.id)
    }

    /// The value of a key: the first part of its entry, verified. An entry without parts (a
    /// tombstone) has none.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.refuse_dropped()?;
        let found = self
            .core
            .find_newest(self.id, key, |_, body: BodyRef<'_>| {
                match body.parts().next() {
                    None => Ok(None),
                    Some(PartRef::Inline(bytes)) => Ok(Some(bytes.to_vec())),
                    Some(PartRef::Extent(extent)) => read_extent(&self.core, extent).map(Some),
                }
            })?;
        found.unwrap_or(Ok(None))
    }

    /// Shows the entry of a key where it stands, if there is one: nothing is copied. What it is part
    /// of is held meanwhile, so `see` should not take long.
    pub fn read<R>(
        &self,
        key: &[u8],
        see: impl FnOnce(EntryRef<'_>) -> R,
    ) -> Result<Option<R>, Error> {
        self.refuse_dropped()?;
        self.core.find_newest(self.id, key, |state, body| {
            see(EntryRef {
                core: &self.core,
                base: &state.base,
                key,
                body,
            })
        })
    }

    /// The values of many keys, all as of one moment; see [`Snapshot::get_many`].
    pub fn get_many(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        self.refuse_dropped()?;
        Snapshot::take(&self.core).get_many(self, keys)
    }

    /// The entry of a key: meta, and parts to be read when wanted.
    pub fn entry(&self, key: &[u8]) -> Result<Option<Entry>, Error> {
        self.refuse_dropped()?;
        View::newest_entry(&self.core, self.id, key).map(|(entry, _)| entry)
    }

    /// Whether there is an entry.
    pub fn has(&self, key: &[u8]) -> Result<bool, Error> {
        self.refuse_dropped()?;
        let found = self.core.find_newest(self.id, key, |_, _| ())?;
        Ok(found.is_some())
    }

    /// Sets the value of a key, with the store's default durability. Returns the end of the commit
    /// in the log: everything below it is visible, and durable if that was asked for.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<Lsn, Error> {
        let changes = vec![(self.id, key, Change::PutPlain(value))];
        self.core.write(changes, self.core.options.durability)
    }

    /// Sets the entry of a key.
    pub fn put_entry(
        &self,
        key: &[u8],
        entry: NewEntry,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        let changes = vec![(self.id, key, Change::Put(entry))];
        self.core.write(changes, durability)
    }

    /// Removes the entry of a key; one that is not there is no error.
    pub fn delete(&self, key: &[u8]) -> Result<Lsn, Error> {
        let changes = vec![(self.id, key, Change::Delete)];
        self.core.write(changes, self.core.options.durability)
    }

    /// Removes all entries in `low..high` (no upper bound if `None`), up to a thousand per commit,
    /// fewer where keys are long and the log is small. Each commit is atomic, the whole is not.
    /// Returns how many there were.
    pub fn delete_range(&self, low: &[u8], high: Option<&[u8]>) -> Result<u64, Error> {
        const AT_ONCE: usize = 1000;
        self.refuse_dropped()?;
        let snapshot = Snapshot::take(&self.core);
        let _exempt = snapshot.exempt();
        let mut entries = snapshot.range(self, low, high);
        let bytes_max = self.core.queue.lock().batch_bytes_max() / 2;
        let mut removed = 0;
        loop {
            let mut batch = Batch::new();
            let mut bytes = 0;
            while batch.len() < AT_ONCE
                && bytes < bytes_max
                && let Some(entry) = entries.next()
            {
                let entry = entry?;
                bytes += (DELETE_BYTES + entry.key().len()) as u64;
                batch.delete(self, entry.key());
            }
            let mut changes = batch.changes();
            if planted::has(Bug::DeleteRangeShort) {
                changes.pop();
            }
            if changes.is_empty() {
                return Ok(removed);
            }
            removed += changes.len() as u64;
            self.core.write(changes, self.core.options.durability)?;
        }
    }

    /// Reads the entry of a key and commits what `decide` makes of it, if it has not changed in
    /// between; else asks again. The closure runs under no lock and may run more than once. Where it
    /// decides to leave the entry, what is returned is the LSN that was read, durable or not.
    pub fn update(
        &self,
        key: &[u8],
        durability: Durability,
        decide: impl FnMut(Option<&Entry>) -> Result<Decision, Error>,
    ) -> Result<Lsn, Error> {
        self.refuse_dropped()?;
        self.core.update(self.id, key, durability, decide)
    }

    /// Sets the entry of a key if `condition` holds of the one that is there; else
    /// [`Error::ConditionFailed`].
    pub fn put_if(
        &self,
        key: &[u8],
        value: &[u8],
        condition: impl Fn(Option<&Entry>) -> bool,
    ) -> Result<Lsn, Error> {
        self.update(key, self.core.options.durability, |old| {
            if condition(old) {
                Ok(Decision::Put(NewEntry::plain(value)))
            } else {
                Err(Error::ConditionFailed)
            }
        })
    }

    /// A stream for a part of exactly `length` bytes, to be named later by a
    /// [`crate::NewPart::Written`]. Dropped unfinished, it gives its space back at once.
    pub fn writer(&self, length: u64) -> Result<Writer, Error> {
        if length <= INLINE_ALWAYS_BYTES as u64 {
            return Err(Error::BadOption(
                "parts of 1024 bytes and less are not streamed",
            ));
        }
        self.refuse_dropped()?;
        Ok(Writer {
            writes: self.core.pool.writes(),
            inner: ExtentWriter::new(&self.core, length)?,
            core: Arc::clone(&self.core),
        })
    }

    /// The entries in `low..high` as they are now, ascending.
    pub fn range(&self, low: &[u8], high: Option<&[u8]>) -> Range {
        let range = Snapshot::take(&self.core).range(self, low, high);
        range.if_allowed(self.refuse_dropped())
    }

    /// The same entries, descending.
    pub fn range_back(&self, low: &[u8], high: Option<&[u8]>) -> Range {
        let range = Snapshot::take(&self.core).range_back(self, low, high);
        range.if_allowed(self.refuse_dropped())
    }

    /// Shows `visit` the entries in `low..high` as they are now, in place; see
    /// [`Snapshot::visit`].
    pub fn visit(
        &self,
        low: &[u8],
        high: Option<&[u8]>,
        visit: impl FnMut(EntryRef<'_>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        self.refuse_dropped()?;
        Snapshot::take(&self.core).visit(self, low, high, visit)
    }

    /// Count and fingerprint of the entries in `low..high` as they are now. See
    /// [`Snapshot::fingerprint`] for what it reads.
    pub fn fingerprint(&self, low: &[u8], high: Option<&[u8]>) -> Result<Summary, Error> {
        self.refuse_dropped()?;
        Snapshot::take(&self.core).fingerprint(self, low, high)
    }

    /// How many entries there are now. Reads what [`Snapshot::fingerprint`] reads.
    pub fn count(&self) -> Result<u64, Error> {
        Ok(self.fingerprint(&[], None)?.count)
    }
}

/// Writes one large part as a stream. The part must be over 1024 bytes and at most 256 MiB.
pub struct Writer {
    /// Dropped first: it waits, and then the units may go.
    writes: Writes,
    inner: ExtentWriter,
    core: Arc<Core>,
}

impl Writer {
    /// Bytes that are still to come.
    pub fn missing(&self) -> u64 {
        self.inner.missing()
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() as u64 > self.inner.missing() {
            return Err(Error::BadOption("more bytes than the writer was made for"));
        }
        self.inner.write(&mut self.writes, bytes)
    }

    /// The part, ready to be named by an entry.
    pub fn finish(mut self) -> Result<Written, Error> {
        if self.inner.missing() > 0 {
            return Err(Error::BadOption("fewer bytes than the writer was made for"));
        }
        self.core.complete(&mut self.writes)?;
        Ok(self.inner.finish())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
