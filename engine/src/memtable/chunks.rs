//! Memory that only grows, and goes back all at once: what a memtable's list is made of.
//!
//! Invariants: what was taken stays where it is, and nobody else's, until the chunks are dropped.
//! A chunk is twice as long as the one before, so that a small memtable is cheap and a large one
//! has few; the longest are mapped, of huge pages where the kernel has them, and leave nothing
//! behind in malloc's heap.

use memmap2::{Advice, MmapMut};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

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
    /// Held, to be unmapped.
    Mapped {
        _map: MmapMut,
    },
}

// SAFETY: a heap chunk is memory without an owner among threads, as a mapped one is.
unsafe impl Send for Chunk {}

impl Chunk {
    /// A chunk of `bytes` bytes, and where it begins.
    fn new(bytes: usize) -> (Self, NonNull<u8>) {
        if bytes >= MAPPED_BYTES_MIN
            && !cfg!(miri)
            && let Ok(mut map) = MmapMut::map_anon(bytes)
        {
            // A refusal leaves small pages.
            let _ = map.advise(Advice::HugePage);
            let start = NonNull::new(map.as_mut_ptr()).expect("a map is somewhere");
            return (Self::Mapped { _map: map }, start);
        }
        let layout = Layout::from_size_align(bytes, ALIGN).expect("far below the address space");
        // SAFETY: the layout has a size.
        let start = NonNull::new(unsafe { alloc(layout) });
        let start = start.unwrap_or_else(|| handle_alloc_error(layout));
        (Self::Heap(start, layout), start)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Self::Heap(start, layout) = self {
            // SAFETY: allocated in `new` with this layout, and dropped once.
            unsafe { dealloc(start.as_ptr(), *layout) };
        }
    }
}

/// The chunks of one memtable.
pub(super) struct Chunks {
    chunks: Vec<Chunk>,
    /// The free rest of the newest shared chunk.
    rest: Option<(NonNull<u8>, usize)>,
    /// Bytes of the next shared chunk.
    next_bytes: usize,
    used: u64,
}

// SAFETY: `rest` is a place in a chunk, which belongs to no thread.
unsafe impl Send for Chunks {}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
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
            let (chunk, start) = Chunk::new(bytes);
            self.chunks.push(chunk);
            self.used += bytes as u64;
            return start;
        }
        let (chunk, start) = Chunk::new(self.next_bytes);
        self.chunks.push(chunk);
        self.used += self.rest.map_or(0, |(_, left)| left as u64);
        self.rest = Some((start, self.next_bytes));
        self.next_bytes = (self.next_bytes * 2).min(CHUNK_BYTES_MAX);
        self.take(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_keeps_its_place_and_its_bytes() {
        let mut chunks = Chunks::new();
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
}
