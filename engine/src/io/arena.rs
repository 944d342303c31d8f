//! Where long aligned buffers come from: pieces of large values and groups of the log, on their
//! way to the disk.
//!
//! Memory fresh from malloc has no pages yet, and a copy into it faults for each, which takes
//! longer than the copy. And a device is handed its 4 KiB pages one by one. Here memory is used
//! again, and it is of huge pages where the kernel has them.
//!
//! Invariants: a page is free, its bit 0, or belongs to one owner. Chunks are added when needed, up
//! to [`CHUNKS_MAX`], and stay; who finds no room takes from malloc.

use parking_lot::Mutex;
use std::alloc::{Layout, alloc};
use std::ptr::NonNull;

/// Bytes of a page, the unit here, and what buffers are aligned to.
const PAGE_BYTES: usize = 4096;

/// Bytes of a chunk: a huge page.
const CHUNK_BYTES: usize = 2 << 20;

const CHUNK_PAGES: usize = CHUNK_BYTES / PAGE_BYTES;

/// Chunks at most: what one writer has under way, twice.
const CHUNKS_MAX: usize = 4;

/// Bytes of the longest buffer from here.
pub(super) const BYTES_MAX: usize = CHUNK_BYTES;

struct Chunk {
    start: NonNull<u8>,
    /// A bit per page that has an owner.
    owned: [u64; CHUNK_PAGES / 64],
}

// SAFETY: a chunk's memory belongs to no thread; who has a page of it is told by the bits, which
// the lock guards.
unsafe impl Send for Chunk {}

static CHUNKS: Mutex<[Option<Chunk>; CHUNKS_MAX]> = Mutex::new([const { None }; CHUNKS_MAX]);

/// `len` bytes, aligned to a page; what they hold is anything. None if there is no room. `len` is
/// at most [`BYTES_MAX`] and not 0.
pub(super) fn take(len: usize) -> Option<NonNull<u8>> {
    let pages = len.div_ceil(PAGE_BYTES);
    let mut chunks = CHUNKS.lock();
    for slot in chunks.iter_mut() {
        if slot.is_none() {
            *slot = Chunk::new();
        }
        let chunk = slot.as_mut()?;
        if let Some(first) = chunk.find(pages) {
            chunk.mark(first, pages, true);
            // SAFETY: the page stands in the chunk's memory.
            return Some(unsafe { chunk.start.add(first * PAGE_BYTES) });
        }
    }
    None
}

/// Takes back what `take` gave for as many bytes.
///
/// # Safety
/// `start` came from `take(len)`, is given back once, and nobody uses it any more.
pub(super) unsafe fn give(start: NonNull<u8>, len: usize) {
    let mut chunks = CHUNKS.lock();
    for chunk in chunks.iter_mut().flatten() {
        let offset = start.addr().get().wrapping_sub(chunk.start.addr().get());
        if offset < CHUNK_BYTES {
            chunk.mark(offset / PAGE_BYTES, len.div_ceil(PAGE_BYTES), false);
            return;
        }
    }
    unreachable!("what is given back lies in a chunk");
}

impl Chunk {
    fn new() -> Option<Self> {
        let layout = Layout::from_size_align(CHUNK_BYTES, CHUNK_BYTES).expect("a small constant");
        // SAFETY: the layout has a size, which is all that `alloc` asks.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        #[cfg(not(miri))]
        // SAFETY: the range is ours and whole pages. A refusal leaves small pages.
        unsafe {
            libc::madvise(start.as_ptr().cast(), CHUNK_BYTES, libc::MADV_HUGEPAGE);
        }
        Some(Self {
            start,
            owned: [0; CHUNK_PAGES / 64],
        })
    }

    /// The first run of so many free pages.
    fn find(&self, pages: usize) -> Option<usize> {
        let mut at = 0;
        while at + pages <= CHUNK_PAGES {
            let free = self.run_from(at, false, pages);
            if free >= pages {
                return Some(at);
            }
            at += free;
            at += self.run_from(at, true, CHUNK_PAGES);
        }
        None
    }

    /// How many pages from `at` on are owned, or are not; no more than `enough` are counted, but
    /// for the rest of a word.
    fn run_from(&self, at: usize, owned: bool, enough: usize) -> usize {
        let mut end = at;
        while end < CHUNK_PAGES && end - at < enough {
            let word = self.owned[end / 64] >> (end % 64);
            let same = if owned {
                word.trailing_ones()
            } else {
                word.trailing_zeros()
            } as usize;
            let left = 64 - end % 64;
            end += same.min(left);
            if same < left {
                break;
            }
        }
        end - at
    }

    fn mark(&mut self, first: usize, pages: usize, owned: bool) {
        for page in first..first + pages {
            let (word, bit) = (&mut self.owned[page / 64], 1 << (page % 64));
            debug_assert_eq!(*word & bit == 0, owned, "a page changes hands");
            *word ^= bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Without memory behind it: the bits alone, which need no interpreter.
        #[test]
        #[cfg_attr(miri, ignore = "thousands of steps")]
        fn no_page_has_two_owners_and_all_become_free_again(
            steps in prop::collection::vec((1_usize..=CHUNK_PAGES, any::<u8>()), 1..200),
        ) {
            let mut chunk = Chunk { start: NonNull::dangling(), owned: [0; CHUNK_PAGES / 64] };
            let mut owners: Vec<(usize, usize)> = Vec::new();
            for (pages, choice) in steps {
                let pages = if choice % 4 == 0 { pages } else { pages % 40 + 1 };
                if let Some(first) = chunk.find(pages) {
                    for (start, taken) in &owners {
                        prop_assert!(first + pages <= *start || start + taken <= first);
                    }
                    prop_assert!(first + pages <= CHUNK_PAGES);
                    chunk.mark(first, pages, true);
                    owners.push((first, pages));
                } else {
                    let free = (0..=CHUNK_PAGES - pages).any(|first| {
                        (first..first + pages)
                            .all(|page| chunk.owned[page / 64] >> (page % 64) & 1 == 0)
                    });
                    prop_assert!(!free, "there is room for {} pages", pages);
                }
                if choice % 3 == 0 && !owners.is_empty() {
                    let (first, pages) = owners.swap_remove(usize::from(choice) % owners.len());
                    chunk.mark(first, pages, false);
                }
            }
            for (first, pages) in owners {
                chunk.mark(first, pages, false);
            }
            prop_assert_eq!(chunk.find(CHUNK_PAGES), Some(0));
        }
    }

    #[test]
    fn past_the_last_chunk_there_is_no_room_until_something_is_given_back() {
        let mut taken = Vec::new();
        while let Some(start) = take(BYTES_MAX / 2) {
            // SAFETY: the first byte of what is ours.
            unsafe { start.write(7) };
            taken.push(start);
        }
        assert!(taken.len() <= 2 * CHUNKS_MAX);
        for start in taken {
            // SAFETY: each was taken above for as many bytes.
            unsafe { give(start, BYTES_MAX / 2) };
        }
    }
}
