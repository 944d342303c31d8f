//! From what a writer wants to a batch that can join: limits, extents, record, fingerprints.
//! Everything slow happens here, in the caller's thread and under no lock.

use crate::batch::{Change, NewEntry, NewPart};
use crate::core::{Condition, Core, Joined, Prepared, Refused, Staged};
use crate::entry::Entry;
use crate::error::Error;
use crate::extents::{LongParts, PartsWriter, Written};
use crate::medium;
use crate::options::Durability;
use crate::queue::{Completion, batch_bytes_max};
use crate::view::View;
use dmerkle::format::body::{
    BodyBuilder, BodyRef, INLINE_ALWAYS_BYTES, KEY_BYTES_MAX, META_BYTES_MAX, PARTS_MAX, PartRef,
};
use dmerkle::format::record::{BatchWriter, Operation, Replaced};
use dmerkle::{Lsn, TreeId};
use std::sync::Arc;

/// Changes of a batch, as they come from the public types.
pub(crate) type Changes<'a> = Vec<(TreeId, &'a [u8], Change<'a>)>;

/// What an `update`'s closure decides.
#[derive(Debug)]
pub enum Decision {
    /// The entry is this now.
    Put(NewEntry),
    /// There is no entry now.
    Delete,
    /// All stays as it is.
    Leave,
}

/// The entry that a batch of one key replaces.
#[derive(Clone, Copy)]
enum Old<'a> {
    /// Nobody looked.
    Unknown,
    /// What was read before, if there was one.
    Read(Option<&'a Entry>),
}

/// A prepared batch and the extents that it names.
struct Ready {
    /// Dropped first: its writes end before the units of the extents go.
    prepared: Prepared,
    extents: Vec<Written>,
}

impl Core {
    /// Commits changes blindly.
    pub(crate) fn write(
        self: &Arc<Self>,
        changes: Changes<'_>,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        self.refuse_writes()?;
        if changes.is_empty() {
            return Ok(self.visible());
        }
        let ready = self.prepare(changes, Old::Unknown, None)?;
        let mut joined = self
            .join_ready(ready, durability, None)
            .map_err(final_error)?;
        self.settle(&mut joined, durability)?;
        Ok(joined.end)
    }

    /// Commits a batch that is prepared already.
    pub(crate) fn write_prepared(
        self: &Arc<Self>,
        prepared: Prepared,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        let mut joined = self.join(prepared, durability, None).map_err(final_error)?;
        self.settle(&mut joined, durability)?;
        Ok(joined.end)
    }

    /// Commits changes and calls `completion` with their fate.
    pub(crate) fn write_async(
        self: &Arc<Self>,
        changes: Changes<'_>,
        durability: Durability,
        completion: Completion,
    ) -> Result<(), Error> {
        self.refuse_writes()?;
        let ready = self.prepare(changes, Old::Unknown, None)?;
        let mut joined = self
            .join_ready(ready, durability, Some(completion))
            .map_err(final_error)?;
        self.hurry(&mut joined, durability);
        Ok(())
    }

    /// Reads an entry, lets `decide` say what becomes of it, and commits that if the entry has
    /// not changed in between; else it does so again.
    pub(crate) fn update(
        self: &Arc<Self>,
        tree: TreeId,
        key: &[u8],
        durability: Durability,
        mut decide: impl FnMut(Option<&Entry>) -> Result<Decision, Error>,
    ) -> Result<Lsn, Error> {
        loop {
            self.refuse_writes()?;
            let (old, view) = View::newest_entry(self, tree, key)?;
            let change = match decide(old.as_ref())? {
                Decision::Put(entry) => Change::Put(entry),
                Decision::Delete => Change::Delete,
                Decision::Leave => return Ok(view.at),
            };
            let condition = Condition {
                tree,
                key: key.to_vec(),
                since: view.at,
            };
            let changes = vec![(tree, key, change)];
            let ready = self.prepare(changes, Old::Read(old.as_ref()), Some(condition))?;
            match self.join_ready(ready, durability, None) {
                Ok(mut joined) => {
                    self.settle(&mut joined, durability)?;
                    return Ok(joined.end);
                }
                Err(Refused::Changed) => self.wait_past(view.at)?,
                Err(Refused::Error(error)) => return Err(error),
            }
        }
    }

    fn join_ready(
        self: &Arc<Self>,
        ready: Ready,
        durability: Durability,
        completion: Option<Completion>,
    ) -> Result<Joined, Refused> {
        for (index, extent) in ready.extents.iter().enumerate() {
            if let Err(error) = extent.claim() {
                ready.extents[..index].iter().for_each(Written::unclaim);
                return Err(error.into());
            }
        }
        let joined = self.join(ready.prepared, durability, completion);
        if joined.is_err() {
            ready.extents.iter().for_each(Written::unclaim);
        }
        joined
    }

    /// Encodes a batch. `old` is the one entry that the changes' single key has now, if that was
    /// read: parts may be kept from it, and the record says what is replaced.
    fn prepare(
        self: &Arc<Self>,
        changes: Changes<'_>,
        old: Old<'_>,
        condition: Option<Condition>,
    ) -> Result<Ready, Error> {
        let changes = only_newest(changes);
        for (_, key, change) in &changes {
            limit("the key", key.len(), KEY_BYTES_MAX)?;
            if let Change::Put(entry) = change {
                limit("the meta", entry.meta.len(), META_BYTES_MAX)?;
                limit("the number of parts", entry.parts.len(), PARTS_MAX)?;
            }
        }
        let replaced = match old {
            Old::Unknown => Replaced::Unknown,
            Old::Read(None) => Replaced::Absent,
            Old::Read(Some(entry)) => Replaced::Fingerprint(entry.fingerprint()),
        };
        let old = match old {
            Old::Unknown => None,
            Old::Read(entry) => entry,
        };
        let mut extents = Vec::new(); // dropped behind the parts' writes
        let mut long_parts = self.write_long_parts(&changes, old)?;
        let mut owed_units = 0;
        let mut record = BatchWriter::new();
        let mut ops = Vec::with_capacity(changes.len());
        let limit = batch_bytes_max(&self.identity.geometry);
        for (tree, key, change) in changes {
            let (key, body) = match change {
                Change::Delete => {
                    record.push(&Operation::Delete {
                        tree,
                        key,
                        replaced,
                    });
                    let end = record.bytes_len();
                    (end - key.len()..end, None)
                }
                Change::Put(NewEntry { meta, parts }) => {
                    let (key, body) = record.put(tree, key, replaced, &meta, |body| {
                        self.add_parts(body, parts, old, &mut long_parts, &mut extents)
                    })?;
                    (key, Some(body))
                }
                Change::PutPlain(value) => {
                    let (key, body) = record.put(tree, key, replaced, &[], |mut body| {
                        add_part(&mut body, value, &mut long_parts, &mut extents);
                        Ok::<_, Error>(body)
                    })?;
                    (key, Some(body))
                }
            };
            ops.push(Staged { tree, key, body });
            let bytes = record.bytes_len() as u64;
            if bytes > limit {
                return Err(Error::BatchTooLarge { bytes, limit });
            }
        }
        let record = record.into_bytes();
        for body in ops.iter().filter_map(|op| op.body.clone()) {
            let body = BodyRef::trusted(&record[body]);
            owed_units += medium::units_of(body, &self.identity.geometry);
        }
        let extent_bytes = extents.iter().map(Written::length).sum();
        Ok(Ready {
            prepared: Prepared {
                record,
                ops,
                trees: None,
                condition,
                extent_bytes,
                owed_units,
                writes: long_parts.writes,
            },
            extents,
        })
    }

    /// Starts the writing of all parts that are too long for leaf and log, so that the disk has
    /// work while they are hashed.
    fn write_long_parts(
        self: &Arc<Self>,
        changes: &Changes<'_>,
        old: Option<&Entry>,
    ) -> Result<LongParts, Error> {
        // On a full disk a part gets its run at once or is refused: a checkpoint could not refuse.
        let inline_bytes_max = if self.space.is_tight() {
            INLINE_ALWAYS_BYTES
        } else {
            medium::inline_bytes_max(changes, old, &self.identity.geometry)
        };
        let mut parts = PartsWriter::new(self, inline_bytes_max);
        for (_, _, change) in changes {
            for part in change.bytes(old) {
                if part.len() > inline_bytes_max {
                    parts.push(part)?;
                }
            }
        }
        Ok(parts.finish())
    }

    /// Adds an entry's parts to its body.
    fn add_parts(
        self: &Arc<Self>,
        mut body: BodyBuilder,
        parts: Vec<NewPart>,
        old: Option<&Entry>,
        long_parts: &mut LongParts,
        extents: &mut Vec<Written>,
    ) -> Result<BodyBuilder, Error> {
        let mut kept = [false; PARTS_MAX];
        for part in parts {
            match part {
                NewPart::Bytes(bytes) => add_part(&mut body, &bytes, long_parts, extents),
                NewPart::Written(written) => {
                    if !written.belongs_to(self) {
                        return Err(Error::BadOption("the part was written in another store"));
                    }
                    body.extent(written.reference());
                    extents.push(written);
                }
                NewPart::Keep(index) => {
                    let part = old.and_then(|old| old.body().parts().nth(index));
                    let part = part.ok_or(Error::BadOption(
                        "a part can be kept only of the entry that an update was shown",
                    ))?;
                    if std::mem::replace(&mut kept[index], true) {
                        return Err(Error::BadOption("a part can be kept only once"));
                    }
                    match part {
                        PartRef::Inline(bytes) => add_part(&mut body, bytes, long_parts, extents),
                        PartRef::Extent(_) => _ = body.part(part),
                    }
                }
            }
        }
        Ok(body)
    }
}

/// Sorts by key; of several changes of one key the last one counts.
fn only_newest(mut changes: Changes<'_>) -> Changes<'_> {
    if changes.is_sorted_by(|a, b| (a.0, a.1) < (b.0, b.1)) {
        return changes;
    }
    // A stable sort keeps the order of those.
    changes.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    changes.dedup_by(|later, earlier| {
        let same = (later.0, later.1) == (earlier.0, earlier.1);
        if same {
            std::mem::swap(later, earlier);
        }
        same
    });
    changes
}

/// Adds a part, which is the next of the long ones if it is long.
fn add_part(
    body: &mut BodyBuilder,
    bytes: &[u8],
    long_parts: &mut LongParts,
    extents: &mut Vec<Written>,
) {
    if bytes.len() <= long_parts.inline_bytes_max {
        body.inline(bytes);
        return;
    }
    let written = long_parts
        .parts
        .next()
        .expect("every long part was started");
    body.extent(written.reference());
    extents.push(written);
}

fn limit(what: &'static str, size: usize, limit: usize) -> Result<(), Error> {
    if size > limit {
        return Err(Error::TooLarge {
            what,
            size: size as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// A batch without a condition is never refused for one.
fn final_error(refused: Refused) -> Error {
    match refused {
        Refused::Error(error) => error,
        Refused::Changed => Error::ConditionFailed,
    }
}
