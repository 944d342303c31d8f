//! Extents: writing a part to freshly allocated units, and reading one back.
//!
//! Invariants:
//! - An extent is written once, to units that nobody else owns, before a record names it.
//! - Until a record names it, [`Written`] owns the units; dropped, it gives them back at once.
//! - What is read is checked chunk by chunk against the checksums that stand in the leaf or the
//!   record, before anyone sees it.

use crate::core::Core;
use crate::error::Error;
use crate::io::AlignedBuf;
use crate::planted::{self, Bug};
use dmerkle::format::extent::{ExtentRef, PART_BYTES_MAX, encode_extent};
use dmerkle::{Place, Run};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes that are gathered before they are written.
const PIECE_BYTES: usize = 1 << 20;

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

/// Writes one extent of a length that is known from the start.
pub(crate) struct ExtentWriter {
    core: Arc<Core>,
    /// Given to [`Written`] at the end; freed if dropped before.
    run: Option<Run>,
    length: u64,
    /// Bytes taken so far.
    taken: u64,
    /// Bytes of the extent before the piece.
    piece_at: u64,
    piece: AlignedBuf,
    /// Bytes in the piece.
    filled: usize,
    chunk_bytes: u64,
    checksums: Vec<u32>,
    /// Of the chunk that is not complete.
    checksum: u32,
    hasher: blake3::Hasher,
}

impl ExtentWriter {
    /// Takes the units for `length` bytes.
    pub(crate) fn new(core: &Arc<Core>, length: u64) -> Result<Self, Error> {
        if length > PART_BYTES_MAX {
            return Err(Error::TooLarge {
                what: "the part",
                size: length,
                limit: PART_BYTES_MAX,
            });
        }
        core.refuse_writes()?;
        let geometry = &core.identity.geometry;
        let units = u32::try_from(geometry.units_for(length)).expect("256 MiB of units");
        let run = core.with_room(|| core.space.allocate_extent(core.disk.as_ref(), units))?;
        let padded = u64::from(units) * geometry.unit();
        let piece_bytes = usize::try_from(padded).map_or(PIECE_BYTES, |all| all.min(PIECE_BYTES));
        Ok(Self {
            core: Arc::clone(core),
            run: Some(run),
            length,
            taken: 0,
            piece_at: 0,
            piece: AlignedBuf::zeroed(piece_bytes),
            filled: 0,
            chunk_bytes: geometry.chunk_bytes(length),
            checksums: Vec::new(),
            checksum: 0,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Bytes that are still to come.
    pub(crate) fn missing(&self) -> u64 {
        self.length - self.taken
    }

    /// Takes the next bytes.
    ///
    /// # Panics
    /// Panics on more bytes than were declared.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        assert!(
            bytes.len() as u64 <= self.missing(),
            "more than was declared"
        );
        while !bytes.is_empty() {
            let room = self.piece.len() - self.filled;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.sum_up(now);
            self.filled += now.len();
            self.taken += now.len() as u64;
            if self.filled == self.piece.len() && self.missing() > 0 {
                self.write_piece()?;
            }
            bytes = later;
        }
        Ok(())
    }

    /// Adds bytes to the chunks' checksums and to the hash.
    fn sum_up(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let mut at = self.taken;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = usize::try_from(self.chunk_bytes - at % self.chunk_bytes)
                .expect("a chunk is at most 4 MiB");
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.checksum = crc32c::crc32c_append(self.checksum, now);
            at += now.len() as u64;
            if at.is_multiple_of(self.chunk_bytes) {
                self.checksums.push(std::mem::take(&mut self.checksum));
            }
            rest = later;
        }
    }

    fn write_piece(&mut self) -> Result<(), Error> {
        let geometry = &self.core.identity.geometry;
        let run = self.run.expect("the writer is not finished");
        let bytes = self.filled.next_multiple_of(geometry.unit_bytes as usize);
        self.piece[self.filled..bytes].fill(0);
        let offset = geometry.offset_of(run.start) + self.piece_at;
        self.core
            .disk
            .write(offset, &self.piece[..bytes])
            .map_err(|error| {
                let durable = self.core.queue.lock().durable;
                let error = Error::io("writing an extent")(error);
                self.core.poison(&error, durable)
            })?;
        self.core
            .counters
            .extent_bytes_written
            .fetch_add(bytes as u64, Ordering::Relaxed);
        self.piece_at += self.filled as u64;
        self.filled = 0;
        Ok(())
    }

    /// Writes what is left. The extent is complete, but durable only with the commit that names
    /// it.
    ///
    /// # Panics
    /// Panics if bytes are missing.
    pub(crate) fn finish(mut self) -> Result<Written, Error> {
        assert_eq!(self.missing(), 0, "fewer bytes than were declared");
        if self.filled > 0 && !planted::has(Bug::LoseExtentTail) {
            self.write_piece()?;
        }
        if !self.length.is_multiple_of(self.chunk_bytes) {
            self.checksums.push(self.checksum);
        }
        let run = self.run.take().expect("a writer is finished once");
        let mut reference = Vec::new();
        let hash = *self.hasher.finalize().as_bytes();
        encode_extent(
            &self.core.identity.geometry,
            run.start,
            self.length,
            &hash,
            &self.checksums,
            &mut reference,
        );
        Ok(Written(Arc::new(Inner {
            core: Arc::clone(&self.core),
            run,
            reference,
            length: self.length,
            hash,
            claimed: AtomicBool::new(false),
        })))
    }
}

impl Drop for ExtentWriter {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.core.space.free(&[run]);
        }
    }
}

/// Writes a whole part.
pub(crate) fn write_extent(core: &Arc<Core>, part: &[u8]) -> Result<Written, Error> {
    let mut writer = ExtentWriter::new(core, part.len() as u64)?;
    writer.write(part)?;
    writer.finish()
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
        .map_err(Error::io("reading an extent"))?;
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
