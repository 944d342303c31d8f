//! What a disk holds at one moment, cheap to copy.
//!
//! A million crash states a minute means a million images: an image is a table of shared pages,
//! and a page is copied when it is first written. Copying an image of a tiny store (some 220 KiB)
//! touches its fifty reference counts and none of its bytes.
//!
//! Invariants: what was never written reads as zeros; nothing stands at or past `size`;
//! `unreadable` is sorted and holds beginnings of sectors.

use crate::rng::Rng;
use std::io;
use std::sync::Arc;

/// Bytes of a shared page: larger ones copy more at a write, smaller ones count more at a clone.
const PAGE: usize = 4096;

type Page = [u8; PAGE];

/// The contents of a simulated file.
#[derive(Clone)]
pub struct Image {
    pages: Vec<Option<Arc<Page>>>,
    size: u64,
    sector: usize,
    unreadable: Vec<u64>,
}

/// How a sector goes bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rot {
    /// All zeros.
    Zeros,
    /// Noise that the seed decides.
    Noise(u32),
    /// One bit is the other way round.
    Flip(u32),
    /// The medium answers with an error until the sector is written again.
    Unreadable,
}

impl Image {
    /// An empty file on a disk of `sector` bytes (a power of two, 512 to 4096) per sector.
    pub fn empty(sector: usize) -> Self {
        assert!(sector.is_power_of_two() && (512..=PAGE).contains(&sector));
        Self {
            pages: Vec::new(),
            size: 0,
            sector,
            unreadable: Vec::new(),
        }
    }

    /// An image of these bytes.
    pub fn of_bytes(sector: usize, bytes: &[u8]) -> Self {
        let mut image = Self::empty(sector);
        image.set_size(bytes.len() as u64);
        image.write(0, bytes);
        image
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes of a sector.
    pub fn sector(&self) -> usize {
        self.sector
    }

    /// Makes the file longer; the new bytes are zeros. Files of a store never shrink, except in
    /// the tests that truncate one.
    pub fn set_size(&mut self, size: u64) {
        let pages = index(size.div_ceil(PAGE as u64));
        self.pages.resize(pages, None);
        if size < self.size {
            self.unreadable.retain(|&at| at < size);
            let kept = index(size % PAGE as u64);
            if kept > 0
                && let Some(page) = self.pages.last_mut().and_then(Option::as_mut)
            {
                Arc::make_mut(page)[kept..].fill(0);
            }
        }
        self.size = size;
    }

    /// Fills `buf`; an error past the end of the file or where a sector is unreadable.
    pub fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        if end > self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.unreadable.is_empty() {
            let first = offset - offset % self.sector as u64;
            if self.unreadable.iter().any(|&at| at >= first && at < end) {
                return Err(crate::faults::eio());
            }
        }
        self.copy_out(offset, buf);
        Ok(())
    }

    /// What stands there, zeros past the end, unreadable or not.
    pub fn copy_out(&self, offset: u64, buf: &mut [u8]) {
        for (page, within, part) in pieces(offset, buf.len()) {
            match self.pages.get(page) {
                Some(Some(bytes)) => {
                    let length = part.len();
                    buf[part].copy_from_slice(&bytes[within..within + length]);
                }
                _ => buf[part].fill(0),
            }
        }
    }

    /// Whether exactly `bytes` can be read there (zeros past the end).
    pub fn holds(&self, offset: u64, bytes: &[u8]) -> bool {
        let end = offset + bytes.len() as u64;
        if self.unreadable.iter().any(|&at| at >= offset && at < end) {
            return false;
        }
        pieces(offset, bytes.len()).all(|(page, within, part)| match self.pages.get(page) {
            Some(Some(held)) => held[within..within + part.len()] == bytes[part],
            _ => bytes[part].iter().all(|&byte| byte == 0),
        })
    }

    /// Replaces bytes below the file's end, and heals the sectors that they cover.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        assert!(
            end <= self.size,
            "a write past the end grows the file first"
        );
        for (page, within, part) in pieces(offset, bytes.len()) {
            let length = part.len();
            let page = &mut self.pages[page];
            if length == PAGE {
                let whole: &Page = bytes[part].try_into().expect("a page of bytes");
                *page = Some(Arc::new(*whole));
                continue;
            }
            let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[within..within + length].copy_from_slice(&bytes[part]);
        }
        self.heal(offset, end);
    }

    /// Replaces bytes by zeros, as a hole reads, as far as the file goes.
    pub fn zero(&mut self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).min(self.size);
        if end <= offset {
            return;
        }
        for (page, within, part) in pieces(offset, index(end - offset)) {
            let page = &mut self.pages[page];
            if part.len() == PAGE {
                *page = None;
            } else if let Some(bytes) = page {
                Arc::make_mut(bytes)[within..within + part.len()].fill(0);
            }
        }
        self.heal(offset, end);
    }

    /// Spoils the sector that begins at `offset`.
    pub fn rot(&mut self, offset: u64, rot: Rot) {
        assert!(offset.is_multiple_of(self.sector as u64));
        if offset >= self.size {
            return;
        }
        let length = index((self.size - offset).min(self.sector as u64));
        let mut bytes = vec![0; length];
        match rot {
            Rot::Zeros => {}
            Rot::Noise(seed) => Rng::new(offset ^ (u64::from(seed) << 40)).fill(&mut bytes),
            Rot::Flip(bit) => {
                self.copy_out(offset, &mut bytes);
                let at = bit as usize % (length * 8);
                bytes[at / 8] ^= 1 << (at % 8);
            }
            Rot::Unreadable => {
                if let Err(place) = self.unreadable.binary_search(&offset) {
                    self.unreadable.insert(place, offset);
                }
                return;
            }
        }
        self.write(offset, &bytes);
    }

    /// The whole file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.size)];
        self.copy_out(0, &mut bytes);
        bytes
    }

    fn heal(&mut self, offset: u64, end: u64) {
        if !self.unreadable.is_empty() {
            self.unreadable.retain(|&at| at < offset || at >= end);
        }
    }
}

/// A 64-bit machine's index.
pub(crate) fn index(n: u64) -> usize {
    usize::try_from(n).expect("a 64-bit machine")
}

/// The pieces of `[offset, offset + length)`: page, offset in the page, range of the caller's
/// buffer.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let start = index(offset);
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = start + done;
        let take = (PAGE - at % PAGE).min(length - done);
        let part = done..done + take;
        done += take;
        Some((at / PAGE, at % PAGE, part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_the_original_loses() {
        let mut image = Image::empty(512);
        image.set_size(3 * 4096 + 512);
        image.write(4000, &[1; 5000]);
        let copy = image.clone();
        image.zero(4096, 4096);
        assert!(copy.holds(4000, &[1; 5000]));
        assert!(image.holds(4000, &[1; 96]) && image.holds(4096, &[0; 4096]));
        assert!(image.holds(8192, &[1; 808]) && image.holds(9000, &[0; 100]));
        assert!(copy.holds(1 << 20, &[0; 8]), "zeros past the end");
    }

    #[test]
    fn reads_past_the_end_and_of_unreadable_sectors_are_errors_until_written() {
        let mut image = Image::of_bytes(512, &[7; 2048]);
        let mut buf = [0; 512];
        assert_eq!(
            image.read(2048 - 511, &mut buf).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        image.rot(512, Rot::Unreadable);
        assert!(image.read(1023, &mut buf[..1]).is_err());
        assert!(image.read(511, &mut buf[..2]).is_err());
        image.read(1024, &mut buf).unwrap();
        image.write(512, &[8; 512]);
        image.read(512, &mut buf).unwrap();
        assert_eq!(buf, [8; 512]);
    }

    #[test]
    fn rot_changes_one_sector() {
        for rot in [Rot::Zeros, Rot::Noise(3), Rot::Flip(4095)] {
            let whole = Image::of_bytes(512, &[7; 2048]);
            let mut image = whole.clone();
            image.rot(512, rot);
            assert!(!image.holds(512, &[7; 512]), "{rot:?}");
            assert!(image.holds(0, &[7; 512]) && image.holds(1024, &[7; 1024]));
        }
    }

    #[test]
    fn what_is_cut_off_is_zeros_when_the_file_grows_again() {
        let mut image = Image::of_bytes(512, &[7; 2048]);
        image.set_size(512);
        image.set_size(2048);
        assert!(image.holds(0, &[7; 512]) && image.holds(512, &[0; 1536]));
    }
}
