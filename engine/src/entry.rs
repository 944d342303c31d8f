//! An entry as a reader holds it.

use crate::core::Core;
use crate::error::Error;
use crate::extents::{read_chunks, read_extent};
use crate::state::Base;
use crate::view::View;
use dmerkle::Sum;
use dmerkle::fingerprint::part_hash;
use dmerkle::format::body::{BodyRef, PartRef};
use std::borrow::Cow;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

/// An entry of a tree: key, meta, and parts that are read when asked for. While it is held, the
/// space of its parts is not reused.
#[derive(Clone)]
pub struct Entry {
    core: Arc<Core>,
    /// Held, so that no space of the entry is reused.
    base: Arc<Base>,
    key: Box<[u8]>,
    body: Arc<[u8]>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .field("parts", &self.parts_len())
            .finish_non_exhaustive()
    }
}

impl Entry {
    pub(crate) fn new(view: &View, key: &[u8], body: Arc<[u8]>) -> Self {
        Self::of(&view.core, &view.state.base, key, body)
    }

    fn of(core: &Arc<Core>, base: &Arc<Base>, key: &[u8], body: Arc<[u8]>) -> Self {
        Self {
            core: Arc::clone(core),
            base: Arc::clone(base),
            key: key.into(),
            body,
        }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// What must be held for as long as a part of the entry is used.
    pub(crate) fn base(&self) -> &Arc<Base> {
        &self.base
    }

    pub(crate) fn shared_body(&self) -> &Arc<[u8]> {
        &self.body
    }

    pub(crate) fn body(&self) -> BodyRef<'_> {
        BodyRef::trusted(&self.body)
    }

    fn part_ref(&self, index: usize) -> Option<PartRef<'_>> {
        self.body().parts().nth(index)
    }

    /// The entry's key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The entry's meta, 0 to 1024 bytes.
    pub fn meta(&self) -> &[u8] {
        self.body().meta()
    }

    /// How many parts.
    pub fn parts_len(&self) -> usize {
        self.body().parts_len()
    }

    /// Bytes of part `index`, if there is one.
    pub fn part_length(&self, index: usize) -> Option<u64> {
        self.part_ref(index).map(|part| part.length())
    }

    /// BLAKE3-256 of part `index`, without reading it if it is an extent.
    pub fn part_hash(&self, index: usize) -> Option<[u8; 32]> {
        self.part_ref(index).map(|part| match part {
            PartRef::Inline(bytes) => part_hash(bytes),
            PartRef::Extent(extent) => *extent.hash(),
        })
    }

    /// The whole part `index`, verified; `None` past the last.
    pub fn part(&self, index: usize) -> Result<Option<Vec<u8>>, Error> {
        match self.part_ref(index) {
            None => Ok(None),
            Some(PartRef::Inline(bytes)) => Ok(Some(bytes.to_vec())),
            Some(PartRef::Extent(extent)) => read_extent(&self.core, extent).map(Some),
        }
    }

    /// Reads part `index` piece by piece, every piece verified.
    pub fn part_reader(&self, index: usize) -> Option<Reader> {
        let length = self.part_length(index)?;
        Some(Reader {
            entry: self.clone(),
            index,
            length,
            at: 0,
            chunk: Vec::new(),
            chunk_at: 0,
        })
    }

    /// The entry's fingerprint under the store's key.
    pub fn fingerprint(&self) -> Sum {
        let key = &self.core.identity.key;
        key.of_entry(&self.key, self.body())
    }
}

/// An entry in place, as a visit or a read shows it.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) base: &'a Arc<Base>,
    pub(crate) key: &'a [u8],
    pub(crate) body: BodyRef<'a>,
}

impl<'a> EntryRef<'a> {
    /// The entry's key.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The entry's meta, 0 to 1024 bytes.
    pub fn meta(&self) -> &'a [u8] {
        self.body.meta()
    }

    /// How many parts.
    pub fn parts_len(&self) -> usize {
        self.body.parts_len()
    }

    /// The first part, in place if it stands in the leaf, else read and verified; `None` for an
    /// entry without parts.
    pub fn value(&self) -> Result<Option<Cow<'a, [u8]>>, Error> {
        match self.body.parts().next() {
            None => Ok(None),
            Some(PartRef::Inline(bytes)) => Ok(Some(Cow::Borrowed(bytes))),
            Some(PartRef::Extent(extent)) => {
                read_extent(self.core, extent).map(|part| Some(Cow::Owned(part)))
            }
        }
    }

    /// The entry's fingerprint under the store's key.
    pub fn fingerprint(&self) -> Sum {
        self.core.identity.key.of_entry(self.key, self.body)
    }

    /// The entry, to be kept.
    pub fn to_entry(&self) -> Entry {
        Entry::of(self.core, self.base, self.key, self.body.as_bytes().into())
    }
}

impl std::fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryRef")
            .field("key", &self.key)
            .field("parts", &self.parts_len())
            .finish_non_exhaustive()
    }
}

impl View {
    /// An entry of this view, in place.
    pub(crate) fn entry_ref<'a>(&'a self, key: &'a [u8], body: BodyRef<'a>) -> EntryRef<'a> {
        EntryRef {
            core: &self.core,
            base: &self.state.base,
            key,
            body,
        }
    }
}

/// Bytes that a reader of an extent takes from the disk at once, at least a chunk.
const READ_BYTES: u64 = 256 * 1024;

/// Reads one part as a stream. Memory: one chunk of the extent, at least 256 KiB.
pub struct Reader {
    entry: Entry,
    index: usize,
    length: u64,
    at: u64,
    chunk: Vec<u8>,
    chunk_at: u64,
}

impl Reader {
    /// Bytes of the part.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The bytes at the current place, verified; empty at the end.
    fn fill(&mut self) -> Result<&[u8], Error> {
        if self.at >= self.length {
            return Ok(&[]);
        }
        let part = self
            .entry
            .body()
            .parts()
            .nth(self.index)
            .expect("the reader was made for a part that is there");
        let extent = match part {
            PartRef::Inline(_) => {
                let at = usize::try_from(self.at).expect("inline parts are short");
                let Some(PartRef::Inline(bytes)) = self.entry.part_ref(self.index) else {
                    unreachable!("the body does not change");
                };
                return Ok(&bytes[at..]);
            }
            PartRef::Extent(extent) => extent,
        };
        let buffered = self.chunk_at..self.chunk_at + self.chunk.len() as u64;
        if !buffered.contains(&self.at) {
            let step = extent.chunk_bytes().max(READ_BYTES);
            self.chunk_at = self.at - self.at % step;
            let bytes = step.min(self.length - self.chunk_at);
            let mut chunk = std::mem::take(&mut self.chunk);
            chunk.resize(usize::try_from(bytes).expect("a chunk is at most 4 MiB"), 0);
            read_chunks(&self.entry.core, extent, self.chunk_at, &mut chunk)?;
            self.chunk = chunk;
        }
        let within = usize::try_from(self.at - self.chunk_at).expect("within a chunk");
        Ok(&self.chunk[within..])
    }
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill().map_err(io::Error::other)?;
        let now = bytes.len().min(into.len());
        into[..now].copy_from_slice(&bytes[..now]);
        self.at += now as u64;
        Ok(now)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
