//! The disk as recovery reads it: never through the page cache.
//!
//! Invariant: what cannot be read counts as bad, as what a torn write left, only if it cannot be
//! read three times *and* the disk answers elsewhere. A disk that answers nowhere says nothing of what is
//! on it: the opening is refused, because it would cut the log off where the disk fell silent, and
//! the cut may reach the medium although its write fails too.

use crate::error::Error;
use crate::io::{AlignedBuf, Disk, IoPool};
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use dmerkle::recover::{ReadAt, Unreadable};
use std::cell::OnceCell;
use std::io;

/// How often a piece is asked for before it counts as unreadable.
const READ_TRIES: usize = 3;

/// Reads what is to be recovered.
pub(crate) struct PlainReads<'a> {
    disk: &'a dyn Disk,
    pool: &'a IoPool,
    size: u64,
    /// What the disk said when it answered nowhere.
    silent: OnceCell<Error>,
}

impl<'a> PlainReads<'a> {
    pub(crate) fn new(disk: &'a dyn Disk, pool: &'a IoPool) -> Result<Self, Error> {
        Ok(Self {
            disk,
            pool,
            size: disk.size().map_err(Error::io("reading the file's size"))?,
            silent: OnceCell::new(),
        })
    }

    /// Refuses if the disk has answered nowhere: then nothing may follow from what was not read.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.silent.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Notes an error of the disk if it fails at every superblock too.
    fn doubt(&self, error: io::Error) {
        let mut block = AlignedBuf::zeroed(self.disk.alignment());
        let mut anywhere = SUPERBLOCK_OFFSETS.iter();
        if !anywhere.any(|offset| self.disk.read(*offset, &mut block).is_ok()) {
            self.silent
                .get_or_init(|| Error::io("reading the store")(error));
        }
    }
}

impl ReadAt for PlainReads<'_> {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<(), Unreadable> {
        let mut read = Ok(());
        for _ in 0..READ_TRIES {
            read = self.disk.read(offset, into);
            if read.is_ok() {
                return Ok(());
            }
        }
        read.map_err(|error| {
            self.doubt(error);
            Unreadable
        })
    }

    fn len(&self) -> u64 {
        self.size
    }

    fn read_many(&self, offsets: &[u64], size: usize, into: &mut [u8]) {
        let places: Vec<_> = offsets.iter().map(|offset| (*offset, size)).collect();
        let answers = self.pool.read_many(&places);
        let pieces = into.chunks_exact_mut(size);
        for ((piece, answer), offset) in pieces.zip(answers).zip(offsets) {
            if let Ok(bytes) = answer {
                piece.copy_from_slice(&bytes);
            } else if self.read_at(*offset, piece).is_err() {
                piece.fill(0);
            }
        }
    }
}
