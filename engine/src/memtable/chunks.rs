//! Memory that only grows, and goes back all at once: what a memtable's list is made of.
//!
//! Invariants: what was taken stays where it is, and nobody else's, until the chunks are dropped.
//! A chunk is twice as long as the one before, so that a small memtable is cheap and a large one
//! has few; the longest are mapped, of huge pages where the kernel has them, and leave nothing
//! behind in malloc's heap.
//!
//! Mapped chunks of a memtable that is gone are [`Spare`] for those to come: a load spent a quarter
//! of its writer's time on fresh pages, which the kernel clears. It may take spare ones back
//! whenever it needs memory.

use crate::sync::Mutex;
use memmap2::{Advice, MmapMut, UncheckedAdvice};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::Arc;

/// What everything taken is aligned to.
pub(super) const ALIGN: usize = 16;

/// Bytes of the first chunk.
const FIRST_BYTES: usize = 1024;

/// Bytes of the longest chunk that is not one thing's own: a huge page.
const CHUNK_BYTES_MAX: usize = 2 << 20;

/// From here on chunks are mapped.
const MAPPED_BYTES_MIN: usize = 256 << 10;

enum Chunk {
    Heap(NonNull<u8>, Layout),
    Mapped(MmapMut),
}

// SAFETY: a heap chunk is memory without an owner among threads, as a mapped one is.
unsafe impl Send for Chunk {}

impl Chunk {
    /// A chunk of `bytes` bytes, and where it begins.
    fn new(bytes: usize, spare: &Spare) -> (Self, NonNull<u8>) {
        if bytes >= MAPPED_BYTES_MIN
            && !cfg!(miri)
            && let Some(mut map) = spare.take(bytes).or_else(|| map(bytes))
        {
            let start = NonNull::new(map.as_mut_ptr()).expect("a map is somewhere");
            return (Self::Mapped(map), start);
        }
        let layout = Layout::from_size_align(bytes, ALIGN).expect("far below the address space");
        // SAFETY: the layout has a size.
        let start = NonNull::new(unsafe { alloc(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        (Self::Heap(start, layout), start)
    }
}

/// Fresh memory.
fn map(bytes: usize) -> Option<MmapMut> {
    let map = MmapMut::map_anon(bytes).ok()?;
    // A refusal leaves small pages.
    let _ = map.advise(Advice::HugePage);
    Some(map)
}

/// Mapped chunks that nobody uses, for the memtables of one store. The oldest go first.
pub(super) struct Spare {
    held: Mutex<Held>,
    bytes_max: usize,
}

#[derive(Default)]
struct Held {
    maps: VecDeque<MmapMut>,
    bytes: usize,
}

impl Spare {
    /// Nothing yet, and never more than `bytes_max` bytes.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self {
            held: Mutex::default(),
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max as u64
    }

    fn take(&self, bytes: usize) -> Option<MmapMut> {
        let mut held = self.held.lock();
        let nth = held.maps.iter().rposition(|map| map.len() == bytes)?;
        held.bytes -= bytes;
        held.maps.swap_remove_back(nth)
    }

    fn give(&self, map: MmapMut) {
        if map.len() > self.bytes_max {
            return;
        }
        // SAFETY: nobody looks at what it holds any more, and who takes it writes before reading.
        // Where the kernel knows no such advice the pages stay, which is as good.
        let _ = unsafe { map.unchecked_advise(UncheckedAdvice::Free) };
        let mut gone = Vec::new();
        let mut held = self.held.lock();
        held.bytes += map.len();
        held.maps.push_back(map);
        while held.bytes > self.bytes_max
            && let Some(oldest) = held.maps.pop_front()
        {
            held.bytes -= oldest.len();
            gone.push(oldest);
        }
        drop(held);
        // Unmapped where nobody waits for it.
        drop(gone);
    }

    /// Gives everything back to the system.
    pub(super) fn clear(&self) {
        let held = std::mem::take(&mut *self.held.lock());
        drop(held);
    }
}

/// The chunks of one memtable.
pub(super) struct Chunks {
    chunks: Vec<Chunk>,
    spare: Arc<Spare>,
    /// The free rest of the newest shared chunk.
    rest: Option<(NonNull<u8>, usize)>,
    /// Bytes of the next shared chunk.
    next_bytes: usize,
    used: u64,
}

// SAFETY: `rest` is a place in a chunk, which belongs to no thread; what is spare has a lock.
unsafe impl Send for Chunks {}

impl Chunks {
    pub(super) fn new(spare: Arc<Spare>) -> Self {
        Self {
            chunks: Vec::new(),
            spare,
            rest: None,
            next_bytes: FIRST_BYTES,
            used: 0,
        }
    }

    /// Bytes taken so far, with what was lost to alignment and at the ends of chunks.
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// `bytes` bytes at a multiple of [`ALIGN`]; what they hold is anything.
    pub(super) fn take(&mut self, bytes: usize) -> NonNull<u8> {
        let bytes = bytes.next_multiple_of(ALIGN);
        if let Some((start, left)) = self.rest
            && bytes <= left
        {
            // SAFETY: still in the chunk, or at its end.
            self.rest = Some((unsafe { start.add(bytes) }, left - bytes));
            self.used += bytes as u64;
            return start;
        }
        if bytes > self.next_bytes / 4 {
            // A chunk of its own: the rest of the shared one stays in use.
            let (chunk, start) = Chunk::new(bytes, &self.spare);
            self.chunks.push(chunk);
            self.used += bytes as u64;
            return start;
        }
        let (chunk, start) = Chunk::new(self.next_bytes, &self.spare);
        self.chunks.push(chunk);
        self.used += self.rest.map_or(0, |(_, left)| left as u64);
        self.rest = Some((start, self.next_bytes));
        self.next_bytes = (self.next_bytes * 2).min(CHUNK_BYTES_MAX);
        self.take(bytes)
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            match chunk {
                // SAFETY: allocated in `Chunk::new` with this layout, and dropped once.
                Chunk::Heap(start, layout) => unsafe { dealloc(start.as_ptr(), layout) },
                Chunk::Mapped(map) => self.spare.give(map),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks() -> Chunks {
        Chunks::new(Arc::new(Spare::new(0)))
    }

    #[test]
    fn what_was_taken_keeps_its_place_and_its_bytes() {
        let mut chunks = chunks();
        let mut taken = Vec::new();
        let mut total = 0;
        for round in 0..200_u8 {
            let bytes = 1 + usize::from(round) * 37 % 900;
            let start = chunks.take(bytes);
            assert_eq!(start.addr().get() % ALIGN, 0);
            // SAFETY: the bytes were just taken.
            unsafe { start.write_bytes(round, bytes) };
            taken.push((start, bytes));
            total += bytes as u64;
        }
        for (round, (start, bytes)) in (0..).zip(&taken) {
            // SAFETY: taken and written above; the chunks are still there.
            let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), *bytes) };
            assert!(bytes.iter().all(|byte| *byte == round));
        }
        let used = chunks.used();
        assert!((total..total * 2).contains(&used), "{used} for {total}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "nothing is mapped there")]
    fn who_comes_next_takes_what_was_given_back_and_no_more_waits_than_it_may() {
        let kept = 3 * CHUNK_BYTES_MAX;
        let spare = Arc::new(Spare::new(kept as u64));
        let held = |spare: &Spare| -> Vec<usize> {
            let held = spare.held.lock();
            held.maps.iter().map(|map| map.as_ptr().addr()).collect()
        };
        let mut first = Chunks::new(Arc::clone(&spare));
        for _ in 0..40_000 {
            first.take(250);
        }
        drop(first);
        let before = held(&spare);
        let bytes = spare.held.lock().bytes;
        assert!((kept / 2..=kept).contains(&bytes), "{bytes} of {kept}");

        let mut second = Chunks::new(Arc::clone(&spare));
        for _ in 0..40_000 {
            let start = second.take(250);
            // SAFETY: the bytes were just taken.
            unsafe { start.write_bytes(7, 250) };
        }
        assert!(held(&spare).is_empty(), "all of it is in use again");
        drop(second);
        assert!(held(&spare).iter().any(|map| before.contains(map)));
        spare.clear();
        assert!(held(&spare).is_empty());
    }
}
