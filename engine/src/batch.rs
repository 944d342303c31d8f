//! What a writer wants to happen, all of it or nothing.

use crate::entry::Entry;
use crate::extents::Written;
use crate::write::Changes;
use dmerkle::format::body::PartRef;

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
/// last one counts.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) changes: Changes<'static>,
}

impl Batch {
    /// A batch of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a plain value.
    pub fn put(&mut self, tree: &crate::Tree, key: &[u8], value: impl Into<Vec<u8>>) -> &mut Self {
        self.put_entry(tree, key, NewEntry::plain(value))
    }

    /// Puts an entry.
    pub fn put_entry(&mut self, tree: &crate::Tree, key: &[u8], entry: NewEntry) -> &mut Self {
        self.changes
            .push((tree.id(), key.to_vec().into(), Change::Put(entry)));
        self
    }

    /// Deletes a key; one that is not there is no error.
    pub fn delete(&mut self, tree: &crate::Tree, key: &[u8]) -> &mut Self {
        self.changes
            .push((tree.id(), key.to_vec().into(), Change::Delete));
        self
    }

    /// How many changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there is no change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
