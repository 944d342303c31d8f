//! A value handed out without a copy.

use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::io::{AlignedBuf, MappedExtent, ahead};
use crate::snapshot::Snapshot;
use crate::state::Base;
use crate::tree::Tree;
use dmerkle::Place;
use dmerkle::format::body::{BodyRef, PartRef};
use dmerkle::format::extent::ExtentRef;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The bytes of a part, verified when they were handed out, shared by all clones.
///
/// A part with units of its own is shown from the page cache, without a copy, where the disk can
/// be mapped. What that means:
/// - Its space is not reused while any clone is held, whatever becomes of the entry, and the
///   store's file stays locked, also after the store was closed.
/// - A page that the kernel drops and reads again later is the kernel's word: on a dying disk that
///   read can raise SIGBUS, and no checksum covers it. Who cannot have that takes `get`.
/// - What was just written is cold: it was written past the page cache, so handing it out reads it.
#[derive(Clone)]
pub struct ValueRef(Bytes);

#[derive(Clone)]
enum Bytes {
    /// A range of an entry's body.
    Inline(Arc<[u8]>, Range<usize>),
    /// The extent, and the state that keeps its space.
    Extent(
        MappedExtent,
        #[expect(dead_code, reason = "held")] Arc<Base>,
    ),
    /// A copy that was read for it.
    Read(Arc<AlignedBuf>),
}

impl ValueRef {
    /// Bytes that were read and verified.
    pub(crate) fn read(bytes: AlignedBuf) -> Self {
        Self(Bytes::Read(Arc::new(bytes)))
    }

    /// Whether these are the page cache's own bytes, or so few that they stood in the entry itself.
    pub fn is_zero_copy(&self) -> bool {
        match &self.0 {
            Bytes::Inline(..) => true,
            Bytes::Extent(extent, _) => extent.is_zero_copy(),
            Bytes::Read(_) => false,
        }
    }
}

impl Deref for ValueRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Inline(body, range) => &body[range.clone()],
            Bytes::Extent(extent, _) => extent,
            Bytes::Read(bytes) => bytes,
        }
    }
}

impl AsRef<[u8]> for ValueRef {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for ValueRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValueRef({} bytes)", self.len())
    }
}

impl Entry {
    /// Part `index` without a copy, verified; `None` past the last. See [`ValueRef`] for what
    /// holding it means.
    pub fn part_shared(&self, index: usize) -> Result<Option<ValueRef>, Error> {
        let bytes = match self.body().parts().nth(index) {
            None => return Ok(None),
            Some(PartRef::Inline(bytes)) => {
                let body = self.shared_body();
                let start = bytes.as_ptr().addr() - body.as_ptr().addr();
                Bytes::Inline(Arc::clone(body), start..start + bytes.len())
            }
            Some(PartRef::Extent(extent)) => show_extent(self.core(), self.base(), extent)?,
        };
        Ok(Some(ValueRef(bytes)))
    }
}

/// An extent of a base's, or of an operation newer than it.
fn show_extent(core: &Core, base: &Arc<Base>, extent: ExtentRef<'_>) -> Result<Bytes, Error> {
    let offset = core.identity.geometry.offset_of(extent.start());
    let length = usize::try_from(extent.length()).expect("at most 256 MiB");
    let shown = core.disk.map(offset, length);
    let shown = shown.map_err(Error::reading("reading an extent", offset))?;
    let verified = if ahead::WORKS && shown.is_zero_copy() {
        // They stand in memory, far from the processor.
        extent.verify_fetching(&shown, ahead::fetch)
    } else {
        extent.verify(&shown)
    };
    verified.map_err(|corrupt| corrupt.at(Place::Block(extent.start())))?;
    Ok(Bytes::Extent(shown, Arc::clone(base)))
}

/// The first part of an entry where it stands. Only what has no units of its own is copied.
fn show_first(core: &Core, base: &Arc<Base>, body: BodyRef<'_>) -> Result<Option<ValueRef>, Error> {
    let bytes = match body.parts().next() {
        None => return Ok(None),
        Some(PartRef::Inline(bytes)) => Bytes::Inline(bytes.into(), 0..bytes.len()),
        Some(PartRef::Extent(extent)) => show_extent(core, base, extent)?,
    };
    Ok(Some(ValueRef(bytes)))
}

impl Tree {
    /// The value of a key without a copy: the first part of its entry, verified. See [`ValueRef`]
    /// for what holding it means.
    pub fn get_ref(&self, key: &[u8]) -> Result<Option<ValueRef>, Error> {
        self.refuse_dropped()?;
        let core = self.core();
        let found = core.find_newest(self.id(), key, |state, body| {
            show_first(core, &state.base, body)
        })?;
        found.unwrap_or(Ok(None))
    }
}

impl Snapshot {
    /// The value of a key without a copy, as [`Tree::get_ref`].
    pub fn get_ref(&self, tree: &Tree, key: &[u8]) -> Result<Option<ValueRef>, Error> {
        let found = self.read(tree, key, |entry| {
            show_first(entry.core, entry.base, entry.body)
        })?;
        found.unwrap_or(Ok(None))
    }
}
