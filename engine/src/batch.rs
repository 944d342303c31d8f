//! What a writer wants to happen, all of it or nothing.

use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::extents::Written;
use crate::tree::FOREIGN;
use crate::write::Changes;
use dmerkle::TreeId;
use dmerkle::format::body::{INLINE_ALWAYS_BYTES, PartRef};
use std::ops::Range;

/// A part of an entry to be written.
#[derive(Debug)]
pub enum NewPart {
    /// These bytes.
    Bytes(Vec<u8>),
    /// Part `i` of the entry that the closure of [`crate::Tree::update`] was shown: it stays
    /// where it is.
    Keep(usize),
    /// What a [`crate::Writer`] has written.
    Written(Written),
}

/// An entry to be written: its meta and its parts.
#[derive(Debug, Default)]
pub struct NewEntry {
    /// 0 to 1024 bytes, opaque to the engine.
    pub meta: Vec<u8>,
    /// 0 to 255 parts.
    pub parts: Vec<NewPart>,
}

impl NewEntry {
    /// What `put(key, value)` means: empty meta, one part.
    pub fn plain(value: impl Into<Vec<u8>>) -> Self {
        Self {
            meta: Vec::new(),
            parts: vec![NewPart::Bytes(value.into())],
        }
    }

    /// An entry with meta and no part yet.
    pub fn with_meta(meta: impl Into<Vec<u8>>) -> Self {
        Self {
            meta: meta.into(),
            parts: Vec::new(),
        }
    }

    /// Adds a part.
    #[must_use]
    pub fn part(mut self, part: NewPart) -> Self {
        self.parts.push(part);
        self
    }
}

/// What to do with one key.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    Put(NewEntry),
    /// What [`NewEntry::plain`] means, of bytes that stay the caller's: large ones are copied once.
    PutPlain(&'a [u8]),
    Delete,
}

impl Change<'_> {
    /// The parts that are given as bytes, or kept of an entry that holds them inline, in order.
    pub(crate) fn bytes<'s>(&'s self, old: Option<&'s Entry>) -> impl Iterator<Item = &'s [u8]> {
        let (plain, parts) = match self {
            Self::PutPlain(value) => (Some(*value), &[][..]),
            Self::Put(entry) => (None, &entry.parts[..]),
            Self::Delete => (None, &[][..]),
        };
        let parts = parts.iter().filter_map(move |part| match part {
            NewPart::Bytes(bytes) => Some(&bytes[..]),
            NewPart::Keep(index) => match old?.body().parts().nth(*index)? {
                PartRef::Inline(bytes) => Some(bytes),
                PartRef::Extent(_) => None,
            },
            NewPart::Written(_) => None,
        });
        plain.into_iter().chain(parts)
    }
}

/// Changes to any trees of one store that happen together. Of several changes of one key the
/// last one counts. One that names trees of several stores is refused when it is committed.
///
/// ```
/// # use engine::{Batch, Durability, Options, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let options = Options { log_bytes: 1 << 20, ..Options::default() };
/// # let store = Store::create(folder.path().join("store"), &options)?;
/// let (accounts, log) = (store.create_tree(b"accounts")?, store.create_tree(b"log")?);
/// let mut batch = Batch::new();
/// batch.put(&accounts, b"ada", b"90").put(&accounts, b"bob", b"110");
/// batch.put(&log, b"0001", b"ada to bob: 10");
/// store.commit(batch, Durability::Durable)?;
/// assert_eq!((accounts.count()?, log.count()?), (2, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Batch {
    /// Keys and short values, one behind the other.
    bytes: Vec<u8>,
    planned: Vec<Planned>,
    of: Of,
}

/// Whose trees a batch names, by the stores' numbers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Of {
    #[default]
    Nobody,
    Store(u64),
    /// No store takes it.
    Several,
}

#[derive(Debug)]
struct Planned {
    tree: TreeId,
    key: Range<usize>,
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    /// A plain value, this part of the batch's bytes.
    Short(Range<usize>),
    /// A plain value.
    Long(Vec<u8>),
    Entry(NewEntry),
    Delete,
}

impl Batch {
    /// A batch of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a plain value.
    pub fn put(
        &mut self,
        tree: &crate::Tree,
        key: &[u8],
        value: impl AsRef<[u8]> + Into<Vec<u8>>,
    ) -> &mut Self {
        let plan = if value.as_ref().len() > INLINE_ALWAYS_BYTES {
            Plan::Long(value.into())
        } else {
            Plan::Short(self.keep(value.as_ref()))
        };
        self.plan(tree, key, plan)
    }

    /// Puts an entry.
    pub fn put_entry(&mut self, tree: &crate::Tree, key: &[u8], entry: NewEntry) -> &mut Self {
        self.plan(tree, key, Plan::Entry(entry))
    }

    /// Deletes a key; one that is not there is no error.
    pub fn delete(&mut self, tree: &crate::Tree, key: &[u8]) -> &mut Self {
        self.plan(tree, key, Plan::Delete)
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn plan(&mut self, tree: &crate::Tree, key: &[u8], plan: Plan) -> &mut Self {
        let store = Of::Store(tree.store_number());
        if self.of != store {
            self.of = match self.of {
                Of::Nobody => store,
                Of::Store(_) | Of::Several => Of::Several,
            };
        }
        let key = self.keep(key);
        let tree = tree.id();
        self.planned.push(Planned { tree, key, plan });
        self
    }

    /// A tree's id says nothing in another store: a batch that names one is refused as a whole.
    pub(crate) fn refuse_foreign(&self, core: &Core) -> Result<(), Error> {
        if self.of == Of::Nobody || self.of == Of::Store(core.number) {
            return Ok(());
        }
        Err(Error::BadOption(FOREIGN))
    }

    /// What is to be done, in the order of the calls. Takes the entries out.
    pub(crate) fn changes(&mut self) -> Changes<'_> {
        let bytes = &self.bytes;
        let changes = self.planned.iter_mut().map(|planned| {
            let change = match &mut planned.plan {
                Plan::Short(value) => Change::PutPlain(&bytes[value.clone()]),
                Plan::Long(value) => Change::PutPlain(value),
                Plan::Entry(entry) => Change::Put(std::mem::take(entry)),
                Plan::Delete => Change::Delete,
            };
            (planned.tree, &bytes[planned.key.clone()], change)
        });
        changes.collect()
    }

    /// How many changes.
    pub fn len(&self) -> usize {
        self.planned.len()
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }
}
