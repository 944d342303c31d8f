//! Zero-copy values: bytes of the file straight from the page cache.
//!
//! The file is mapped in segments, each when it is first asked for, and each with a tail that
//! reaches into the next so that an extent always lies within one. Only so many stay mapped:
//! every 2 MiB that were ever touched keep a page of page table until the segment goes.
//!
//! Invariants:
//! - A segment is unmapped after the last extent in it is dropped, never before.
//! - The file stays locked until then, also when its disk is gone: a map keeps the descriptor that
//!   it was made from, so that no other opening overwrites what is shown.
//! - Bytes shown by a held extent are neither written nor punched: the engine reuses a run only
//!   when no buffer from it is held, and `Segments::assert_unshown` stops it if it ever forgets.
//!   Whoever shows an extent notes it in a list of its thread; whoever writes looks into all lists.
//! - Pages are read in before they are handed out, so that a medium that refuses them is an error
//!   here. Where the kernel says that all of them stand in the page cache, that is enough: to walk
//!   them again cost a quarter of a warm read. A page that the kernel drops and reads again later is
//!   its own word: a dying disk can still raise SIGBUS then, and no checksum covers that read.

use arc_swap::ArcSwap;
use memmap2::{Advice, MmapOptions, MmapRaw};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::slice;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::sys;

/// Bytes from one segment's start to the next one's.
const SEGMENT_BYTES: u64 = 1 << 30;

/// Bytes that a segment reaches into the next: the longest extent.
const TAIL_BYTES: u64 = 256 << 20;

/// Segments that stay mapped: at most 160 MiB of page tables.
const SEGMENTS_MAX: usize = 64;

/// Lists of what is shown. With one list, two readers of warm values handed its lock to each other
/// twice a read.
const LISTS: usize = 16;

/// Bytes of the file (or a copy of them), shared by all clones until the last is dropped.
#[derive(Clone)]
pub struct MappedExtent(Bytes);

#[derive(Clone)]
enum Bytes {
    Copied(Arc<[u8]>),
    Shown(Arc<Shown>),
}

impl MappedExtent {
    /// An extent that is a copy: where nothing can be mapped, and on simulated disks.
    pub fn copied(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(Bytes::Copied(bytes.into()))
    }

    /// Whether these are the page cache's own bytes.
    pub fn is_zero_copy(&self) -> bool {
        matches!(self.0, Bytes::Shown(_))
    }
}

impl Deref for MappedExtent {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Copied(bytes) => bytes,
            Bytes::Shown(shown) => shown.bytes(),
        }
    }
}

impl AsRef<[u8]> for MappedExtent {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for MappedExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_zero_copy() {
            "mapped"
        } else {
            "copied"
        };
        write!(f, "MappedExtent({} bytes, {kind})", self.len())
    }
}

/// A range of a mapped segment, on a list of what is shown.
struct Shown {
    segment: Arc<Segment>,
    /// Where the range begins in the segment, and how long it is. It lies within the segment.
    at: usize,
    len: usize,
    /// Where it begins in the file.
    offset: u64,
    /// Which list it is on.
    list: usize,
}

impl Shown {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `Segments::map` checked that `at + len` is within the segment.
        let start = unsafe { self.segment.raw.as_ptr().add(self.at) };
        // SAFETY: the segment stays mapped while `self` holds it; the file reached beyond the range
        // when it was mapped and no engine call shortens it; nobody writes to the range while it is
        // on the list (see the invariants), and the lock keeps other processes of ours out.
        unsafe { slice::from_raw_parts(start, self.len) }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let list = self.segment.lists.list(self.list);
        list.lock().remove(self.offset, self.len as u64);
    }
}

/// The ranges of the file that someone holds, with how many hold each.
#[derive(Default)]
struct ShownList {
    holders: BTreeMap<(u64, u64), u64>,
    /// The longest range ever shown: how far before an offset a range that covers it may begin.
    longest: u64,
}

impl ShownList {
    fn add(&mut self, offset: u64, len: u64) {
        *self.holders.entry((offset, len)).or_insert(0) += 1;
        self.longest = self.longest.max(len);
    }

    fn remove(&mut self, offset: u64, len: u64) {
        if let Some(holders) = self.holders.get_mut(&(offset, len)) {
            *holders -= 1;
            if *holders == 0 {
                self.holders.remove(&(offset, len));
            }
        }
    }

    /// A shown range that has a byte in `[offset, offset + bytes)`.
    fn overlap(&self, offset: u64, bytes: u64) -> Option<(u64, u64)> {
        let first = (offset.saturating_sub(self.longest), 0);
        let behind = (offset.saturating_add(bytes), 0);
        self.holders
            .range(first..behind)
            .map(|(&range, _)| range)
            .find(|&(start, len)| bytes > 0 && start + len > offset)
    }
}

/// What is shown, on several lists, so that readers seldom meet.
#[derive(Default)]
struct ShownLists([Apart; LISTS]);

/// A list with cache lines of its own; processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Apart(Mutex<ShownList>);

impl ShownLists {
    fn list(&self, number: usize) -> &Mutex<ShownList> {
        &self.0[number].0
    }

    /// The list that this thread notes on. Which one it is decides nothing but speed.
    fn of_thread() -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static LIST: usize = THREADS.fetch_add(1, Ordering::Relaxed) % LISTS;
        }
        LIST.try_with(|list| *list).unwrap_or(0)
    }

    fn overlap(&self, offset: u64, bytes: u64) -> Option<(u64, u64)> {
        let mut lists = self.0.iter();
        lists.find_map(|list| list.0.lock().overlap(offset, bytes))
    }
}

/// A piece of the file that is mapped.
struct Segment {
    raw: MmapRaw,
    /// The newest mapping when it was last used.
    used: AtomicU64,
    lists: Arc<ShownLists>,
}

/// The mapped segments of one file.
pub(super) struct Segments {
    /// Every read looks here, so none waits for another.
    mapped: ArcSwap<Mapped>,
    /// Held by who maps.
    mapping: Mutex<()>,
    lists: Arc<ShownLists>,
    segment_bytes: u64,
    tail_bytes: u64,
    mapped_max: usize,
    /// Whether this process is told which pages are resident.
    told_truth: OnceLock<bool>,
}

#[derive(Clone, Default)]
struct Mapped {
    /// By number.
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Segments that were ever mapped: the time, for [`Segment::used`].
    now: u64,
}

impl Default for Segments {
    fn default() -> Self {
        Self::new(SEGMENT_BYTES, TAIL_BYTES, SEGMENTS_MAX)
    }
}

impl Segments {
    fn new(segment_bytes: u64, tail_bytes: u64, mapped_max: usize) -> Self {
        Self {
            mapped: ArcSwap::default(),
            mapping: Mutex::default(),
            lists: Arc::default(),
            segment_bytes,
            tail_bytes,
            mapped_max,
            told_truth: OnceLock::new(),
        }
    }

    /// Shows bytes that lie within the file, or nothing if they cannot be mapped or read.
    pub(super) fn map(&self, file: &File, offset: u64, len: usize) -> Option<MappedExtent> {
        let bytes = len as u64;
        if len == 0 || bytes > self.tail_bytes {
            return None;
        }
        let segment = self.segment(file, offset / self.segment_bytes).ok()?;
        let at = usize::try_from(offset % self.segment_bytes).ok()?;
        assert!(
            at + len <= segment.raw.len(),
            "an extent ends before its segment's tail does"
        );
        // Listed first: what is being read in must not be written either.
        let list = ShownLists::of_thread();
        self.lists.list(list).lock().add(offset, bytes);
        let shown = Shown {
            segment,
            at,
            len,
            offset,
            list,
        };
        if !self.is_resident(file, &shown) {
            // One large read; populating alone would read page after page, since the map is
            // marked as random.
            sys::advise(file, offset, bytes, libc::POSIX_FADV_WILLNEED);
            // Kernels before 5.14 refuse: without it a bad sector would be a signal, so copy there.
            let segment = &shown.segment.raw;
            segment.advise_range(Advice::PopulateRead, at, len).ok()?;
        }
        Some(MappedExtent(Bytes::Shown(Arc::new(shown))))
    }

    /// Whether the kernel says, and may be believed, that all of it stands in the page cache.
    fn is_resident(&self, file: &File, shown: &Shown) -> bool {
        let page = sys::page_bytes();
        let believed = *self.told_truth.get_or_init(|| tells_truth(file, page));
        let skip = shown.at % page;
        let start = shown.segment.raw.as_ptr().wrapping_add(shown.at - skip);
        believed && sys::is_resident(start, skip + shown.len, page)
    }

    /// Stops a write to bytes that someone was promised not to see change.
    pub(super) fn assert_unshown(&self, offset: u64, bytes: u64) {
        let overlap = self.lists.overlap(offset, bytes);
        if let Some((start, len)) = overlap {
            panic!("bytes {offset}+{bytes} are about to change, but {start}+{len} are handed out");
        }
    }

    fn segment(&self, file: &File, number: u64) -> io::Result<Arc<Segment>> {
        if let Some(segment) = self.mapped.load().find(number) {
            return Ok(segment);
        }
        let _alone = self.mapping.lock();
        let mapped = self.mapped.load();
        if let Some(segment) = mapped.find(number) {
            return Ok(segment);
        }
        let len =
            usize::try_from(self.segment_bytes + self.tail_bytes).map_err(io::Error::other)?;
        // May reach beyond the end of the file: those pages come to life as the file grows.
        let raw = MmapOptions::new()
            .offset(number * self.segment_bytes)
            .len(len)
            .map_raw_read_only(file)?;
        raw.advise(Advice::Random)?;
        let mut next = Mapped::clone(&mapped);
        next.now += 1;
        let segment = Arc::new(Segment {
            raw,
            used: AtomicU64::new(next.now),
            lists: Arc::clone(&self.lists),
        });
        if next.segments.len() >= self.mapped_max {
            let used = |segment: &Segment| segment.used.load(Ordering::Relaxed);
            let oldest = next
                .segments
                .iter()
                .min_by_key(|(_, segment)| used(segment));
            if let Some(number) = oldest.map(|(&number, _)| number) {
                next.segments.remove(&number);
            }
        }
        next.segments.insert(number, Arc::clone(&segment));
        self.mapped.store(Arc::new(next));
        Ok(segment)
    }
}

impl Mapped {
    fn find(&self, number: u64) -> Option<Arc<Segment>> {
        let segment = self.segments.get(&number)?;
        // Written seldom: all readers have the line.
        if segment.used.load(Ordering::Relaxed) != self.now {
            segment.used.store(self.now, Ordering::Relaxed);
        }
        Some(Arc::clone(segment))
    }
}

/// Asks about a page behind the file's end, which is never resident: who may not know is told that
/// everything is.
fn tells_truth(file: &File, page_bytes: usize) -> bool {
    let page = page_bytes as u64;
    let ask = || -> io::Result<bool> {
        let behind = file.metadata()?.len().next_multiple_of(page) + page;
        let nothing = MmapOptions::new()
            .offset(behind)
            .len(page_bytes)
            .map_raw_read_only(file)?;
        Ok(!sys::is_resident(nothing.as_ptr(), page_bytes, page_bytes))
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests;
