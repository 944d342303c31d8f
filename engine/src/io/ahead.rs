//! Bytes asked for before they are read.
//!
//! One core waits for memory with few lines under way, and its own guesses end at each page: the
//! next page of a mapped value is anywhere in memory, and so is the way to it. Who knows what
//! comes next says so here. It is a hint: nothing is read, and nothing can fail.

/// Whether [`fetch`] does anything: measured on x86-64 only, and nothing to Miri.
pub(crate) const WORKS: bool = cfg!(all(target_arch = "x86_64", not(miri)));

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks for the cache lines of these bytes.
pub(crate) fn fetch(bytes: &[u8]) {
    if WORKS {
        for line in bytes.chunks(LINE_BYTES) {
            fetch_place(&line[0]);
        }
    }
}

/// Asks for the cache line in which something begins.
pub(crate) fn fetch_place<T>(place: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction is in every x86-64 processor; it faults on no address and changes
        // nothing but what the caches hold.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(place).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = place;
}
