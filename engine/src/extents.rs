//! Extents: writing a part to freshly allocated units, and reading one back.
//!
//! Invariants:
//! - An extent is written once, to units that nobody else owns, before a record names it.
//! - Until a record names it, [`Written`] owns the units; dropped, it gives them back at once.
//!   By then its writes have ended: the kernel must not write to units of somebody else.
//! - What is read is checked chunk by chunk against the checksums that stand in the leaf or the
//!   record, before anyone sees it.

use crate::core::Core;
use crate::error::Error;
use crate::io::{AlignedBuf, Writes};
use crate::planted::{self, Bug};
use crate::sums::{Part, Summer, Sums};
use dmerkle::format::extent::{ExtentRef, PART_BYTES_MAX, encode_extent};
use dmerkle::{Place, Run};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are written at once; a streaming writer gathers so many.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of parts whose sums may wait, so that memory stays bounded.
const UNSUMMED_BYTES_MAX: usize = 4 << 20;

/// An extent that is written and that no entry names yet. When the last clone is dropped and no
/// entry was made of it, its space is given back.
#[derive(Clone)]
pub struct Written(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    run: Run,
    reference: Vec<u8>,
    length: u64,
    hash: [u8; 32],
    /// Whether a batch has it: then its units are the log's.
    claimed: AtomicBool,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Written({:?})", self.0.run)
    }
}

impl Written {
    fn new(core: &Arc<Core>, run: Run, length: u64, sums: Sums) -> Self {
        let Sums { hash, checksums } = sums;
        let mut reference = Vec::new();
        let geometry = &core.identity.geometry;
        encode_extent(
            geometry,
            run.start,
            length,
            &hash,
            &checksums,
            &mut reference,
        );
        Self(Arc::new(Inner {
            core: Arc::clone(core),
            run,
            reference,
            length,
            hash,
            claimed: AtomicBool::new(false),
        }))
    }

    /// Bytes of the part.
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// BLAKE3-256 of the part.
    pub fn hash(&self) -> [u8; 32] {
        self.0.hash
    }

    /// The encoded reference, as it stands in a body.
    pub(crate) fn reference(&self) -> &[u8] {
        &self.0.reference
    }

    /// Whether it was written in this store.
    pub(crate) fn belongs_to(&self, core: &Arc<Core>) -> bool {
        Arc::ptr_eq(&self.0.core, core)
    }

    /// Takes the extent for a batch. Only one batch can have it.
    pub(crate) fn claim(&self) -> Result<(), Error> {
        if self.0.claimed.swap(true, Ordering::AcqRel) {
            return Err(Error::BadOption("the part is in another entry already"));
        }
        Ok(())
    }

    /// The batch did not join.
    pub(crate) fn unclaim(&self) {
        self.0.claimed.store(false, Ordering::Release);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !*self.claimed.get_mut() {
            self.core.space.free(&[self.run]);
        }
    }
}

/// Writes one extent of a length that is known from the start. Its pieces are under way while they
/// are hashed; whoever owns the [`Writes`] they were started on waits for them before a record
/// names the extent or its units are given back.
pub(crate) struct ExtentWriter {
    core: Arc<Core>,
    /// Given to [`Written`] at the end; freed if dropped before.
    run: Option<Run>,
    length: u64,
    /// Bytes of the extent before the piece.
    piece_at: u64,
    /// Bytes that are gathered, less than a piece.
    piece: Vec<u8>,
    summer: Summer,
}

impl ExtentWriter {
    /// Takes the units for `length` bytes.
    pub(crate) fn new(core: &Arc<Core>, length: u64) -> Result<Self, Error> {
        Ok(Self {
            core: Arc::clone(core),
            run: Some(take_units(core, length)?),
            length,
            piece_at: 0,
            piece: Vec::new(),
            summer: Summer::new(core.identity.geometry.chunk_bytes(length)),
        })
    }

    /// Bytes that are still to come.
    pub(crate) fn missing(&self) -> u64 {
        self.length - self.piece_at - self.piece.len() as u64
    }

    /// Takes the next bytes, and starts writing what makes a piece.
    ///
    /// # Panics
    /// Panics on more bytes than were declared.
    pub(crate) fn write(&mut self, writes: &mut Writes, mut bytes: &[u8]) -> Result<(), Error> {
        assert!(
            bytes.len() as u64 <= self.missing(),
            "more than was declared"
        );
        while !bytes.is_empty() {
            let left = self.length - self.piece_at;
            let piece_bytes = usize::try_from(left).map_or(PIECE_BYTES, |all| all.min(PIECE_BYTES));
            let room = piece_bytes - self.piece.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if now.len() == piece_bytes {
                self.start_piece(writes, now)?;
            } else {
                self.piece.extend_from_slice(now);
                if self.piece.len() == piece_bytes {
                    let mut piece = std::mem::take(&mut self.piece);
                    self.start_piece(writes, &piece)?;
                    piece.clear();
                    self.piece = piece;
                }
            }
            bytes = later;
        }
        Ok(())
    }

    /// Starts the write of a copy, and takes checksums and hash of it meanwhile.
    fn start_piece(&mut self, writes: &mut Writes, piece: &[u8]) -> Result<(), Error> {
        let run = self.run.expect("the writer is not finished");
        let is_last = self.piece_at + piece.len() as u64 == self.length;
        let copy = self
            .core
            .start_piece(writes, run, self.piece_at, piece, is_last)?;
        self.summer.add(&copy[..piece.len()]);
        self.piece_at += piece.len() as u64;
        Ok(())
    }

    /// The extent, complete once its writes have ended, and durable only with the commit that
    /// names it.
    ///
    /// # Panics
    /// Panics if bytes are missing.
    pub(crate) fn finish(mut self) -> Written {
        assert_eq!(self.missing(), 0, "fewer bytes than were declared");
        let run = self.run.take().expect("a writer is finished once");
        let summer = std::mem::replace(&mut self.summer, Summer::new(1));
        Written::new(&self.core, run, self.length, summer.finish())
    }
}

impl Drop for ExtentWriter {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.core.space.free(&[run]);
        }
    }
}

impl Core {
    /// A failed write of an extent stops all writing, as any failed write does.
    fn poison_extent(&self, error: io::Error) -> Error {
        self.poison_write(&Error::io("writing an extent")(error))
    }

    /// Starts the write of a copy of bytes that begin at `at` of an extent.
    fn start_piece(
        &self,
        writes: &mut Writes,
        run: Run,
        at: u64,
        piece: &[u8],
        is_last: bool,
    ) -> Result<Arc<AlignedBuf>, Error> {
        let geometry = &self.identity.geometry;
        let padded = piece.len().next_multiple_of(geometry.unit_bytes as usize);
        // The caller may change its bytes meanwhile; nobody changes the copy.
        let copy = Arc::new(AlignedBuf::padded_copy(piece, padded));
        if !(is_last && planted::has(Bug::LoseExtentTail)) {
            let started = writes.start(geometry.offset_of(run.start) + at, &copy);
            started.map_err(|error| self.poison_extent(error))?;
        }
        self.counters
            .extent_bytes_written
            .fetch_add(padded as u64, Ordering::Relaxed);
        Ok(copy)
    }

    /// Waits until the extents are written that were started.
    pub(crate) fn complete(&self, writes: &mut Writes) -> Result<(), Error> {
        writes.wait().map_err(|error| self.poison_extent(error))
    }
}

/// Writes the long parts of a batch.
pub(crate) struct PartsWriter {
    /// Dropped first: the units may go when the writes have ended. None until there is a part.
    writes: Option<Writes>,
    core: Arc<Core>,
    inline_bytes_max: usize,
    written: Vec<Written>,
    /// Their writes are under way; their sums are still to be taken. They come behind `written`.
    started: Vec<Started>,
    started_bytes: usize,
}

/// What a [`PartsWriter`] has written, complete once the writes have ended.
pub(crate) struct LongParts {
    /// Dropped first, as above.
    pub(crate) writes: Option<Writes>,
    /// The longest part of the batch that is none of them.
    pub(crate) inline_bytes_max: usize,
    /// In the order in which they came.
    pub(crate) parts: std::vec::IntoIter<Written>,
}

/// A part of one piece.
struct Started {
    core: Arc<Core>,
    /// Given to [`Written`] at the end; freed if dropped before.
    run: Option<Run>,
    copy: Arc<AlignedBuf>,
    length: usize,
}

impl PartsWriter {
    pub(crate) fn new(core: &Arc<Core>, inline_bytes_max: usize) -> Self {
        Self {
            writes: None,
            core: Arc::clone(core),
            inline_bytes_max,
            written: Vec::new(),
            started: Vec::new(),
            started_bytes: 0,
        }
    }

    /// Starts writing a whole part.
    pub(crate) fn push(&mut self, part: &[u8]) -> Result<(), Error> {
        let core = &self.core;
        let writes = self.writes.get_or_insert_with(|| core.pool.writes());
        if part.len() > PIECE_BYTES {
            let mut extent = ExtentWriter::new(core, part.len() as u64)?;
            if let Err(error) = extent.write(writes, part) {
                // Before the units are given back.
                let _ = writes.wait();
                return Err(error);
            }
            self.sum_up();
            self.written.push(extent.finish());
            return Ok(());
        }
        let run = take_units(core, part.len() as u64)?;
        match core.start_piece(writes, run, 0, part, true) {
            Ok(copy) => self.started.push(Started {
                core: Arc::clone(core),
                run: Some(run),
                copy,
                length: part.len(),
            }),
            Err(error) => {
                let _ = writes.wait();
                core.space.free(&[run]);
                return Err(error);
            }
        }
        self.started_bytes += part.len();
        if self.started_bytes >= UNSUMMED_BYTES_MAX {
            self.sum_up();
        }
        Ok(())
    }

    fn sum_up(&mut self) {
        let geometry = &self.core.identity.geometry;
        let parts = self.started.iter().map(|started| Part {
            bytes: Arc::clone(&started.copy),
            length: started.length,
            chunk_bytes: geometry.chunk_bytes(started.length as u64),
        });
        let sums = self.core.summing.sum(parts.collect());
        for (mut started, sums) in self.started.drain(..).zip(sums) {
            let run = started.run.take().expect("nobody else takes it");
            let length = started.length as u64;
            self.written
                .push(Written::new(&self.core, run, length, sums));
        }
        self.started_bytes = 0;
    }

    pub(crate) fn finish(mut self) -> LongParts {
        self.sum_up();
        LongParts {
            writes: self.writes,
            inline_bytes_max: self.inline_bytes_max,
            parts: self.written.into_iter(),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.core.space.free(&[run]);
        }
    }
}

/// Takes the units for a part.
fn take_units(core: &Arc<Core>, length: u64) -> Result<Run, Error> {
    if length > PART_BYTES_MAX {
        return Err(Error::TooLarge {
            what: "the part",
            size: length,
            limit: PART_BYTES_MAX,
        });
    }
    core.refuse_writes()?;
    let units = core.identity.geometry.units_for(length);
    let units = u32::try_from(units).expect("256 MiB of units");
    core.with_room(|| {
        let promised = || core.reserve_units();
        core.space
            .allocate_extent(core.disk.as_ref(), units, promised)
    })
}

/// Reads `into.len()` bytes of a part from `at` on, whole chunks of it checked. `at` is a
/// multiple of the chunk's bytes; the bytes end at a chunk's end or the part's.
pub(crate) fn read_chunks(
    core: &Core,
    extent: ExtentRef<'_>,
    at: u64,
    into: &mut [u8],
) -> Result<(), Error> {
    debug_assert!(at.is_multiple_of(extent.chunk_bytes()));
    let offset = core.identity.geometry.offset_of(extent.start()) + at;
    core.disk
        .read_cached(offset, into)
        .map_err(Error::reading("reading an extent", offset))?;
    if planted::has(Bug::SkipChunkChecksum) {
        return Ok(());
    }
    let first = usize::try_from(at / extent.chunk_bytes()).expect("at most 64 chunks");
    extent
        .verify_chunks(first, into)
        .map_err(|corrupt| corrupt.at(Place::Block(extent.start())).into())
}

/// Reads a whole part.
pub(crate) fn read_extent(core: &Core, extent: ExtentRef<'_>) -> Result<Vec<u8>, Error> {
    let length = usize::try_from(extent.length()).expect("a part is at most 256 MiB");
    let mut part = vec![0; length];
    read_chunks(core, extent, 0, &mut part)?;
    Ok(part)
}
