//! What a thread allocates: the proof that bytes on a disk cannot make the engine ask for more
//! memory than the file could fill.
//!
//! A program that wants to know makes [`Counting`] its global allocator; elsewhere all counts stay
//! zero. Counts are per thread, because the tests drive one store per thread.
//!
//! Invariant: no call here allocates, so that counting never counts itself.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with counts.
pub struct Counting;

/// What was allocated since [`begin`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Allocations {
    /// Bytes of the largest single allocation.
    pub largest_bytes: u64,
    /// The most bytes that were held at one moment beyond what was held at the beginning.
    pub peak_bytes: u64,
}

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// Begins counting in this thread.
pub fn begin() {
    HELD.set(0);
    PEAK.set(0);
    LARGEST.set(0);
}

/// What this thread has allocated since.
pub fn taken() -> Allocations {
    Allocations {
        largest_bytes: LARGEST.get() as u64,
        peak_bytes: u64::try_from(PEAK.get()).unwrap_or(0),
    }
}

fn count(taken: usize, given_back: usize) {
    let bytes = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    HELD.set(HELD.get() + bytes(taken) - bytes(given_back));
    PEAK.set(PEAK.get().max(HELD.get()));
    LARGEST.set(LARGEST.get().max(taken));
}

// SAFETY: every method is the system allocator's method of the same name with the same arguments;
// what stands around the call touches three numbers of the thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract, which is `System`'s.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: `place` is from `System`, as all that this allocator gives out is, and the caller
        // keeps the rest of `GlobalAlloc::realloc`'s contract.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as for `realloc`.
        unsafe { System.dealloc(place, layout) }
    }
}
