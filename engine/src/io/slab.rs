//! Where small aligned buffers come from: tree nodes, above all, which fill the cache.
//!
//! malloc leaves a gap of a page behind each of them, so that a cache of 8 KiB nodes takes half as
//! much memory again as it counts. Here blocks of one size stand side by side in slabs.
//!
//! Slabs are mapped. Cut from malloc's heap, where they stay for ever, they would keep everything
//! freed below them from going back: 40 MB beside a cache of 100 MB while batches of 1 MB come and go.
//!
//! Invariants: a block is in one list or with one owner; lists hold blocks of their size alone. A
//! slab is never given back, but the pages of free blocks are, beyond a few.

use memmap2::MmapMut;
use parking_lot::Mutex;
use std::alloc::{Layout, alloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Sizes are this, doubled up to [`SIZES`] - 1 times.
const BLOCK_BYTES_MIN: usize = 4096;
const SIZES: usize = 4;

/// Bytes of the largest block; what is longer comes from malloc.
pub(super) const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_MIN << (SIZES - 1);

/// Bytes that are mapped at once.
const SLAB_BYTES: usize = 1 << 20;

/// Free blocks of a size of which so many give their pages back when twice as many have theirs: a
/// block that comes and goes costs no system call.
const RELEASED_AT_ONCE: usize = 128;

struct Block(NonNull<u8>);

// SAFETY: a block in a list belongs to the list alone; memory is of no thread.
unsafe impl Send for Block {}

/// The free blocks of a size. The last of them, which are the next to go, have their pages.
struct Free {
    blocks: Vec<Block>,
    resident: usize,
}

static FREE: [Mutex<Free>; SIZES] = [const {
    Mutex::new(Free {
        blocks: Vec::new(),
        resident: 0,
    })
}; SIZES];

/// Which list has blocks for `len` bytes, and how long those are.
fn size_of(len: usize) -> (usize, usize) {
    let bytes = len.next_power_of_two().max(BLOCK_BYTES_MIN);
    let index = bytes.trailing_zeros() - BLOCK_BYTES_MIN.trailing_zeros();
    (index as usize, bytes)
}

/// A block of at least `len` bytes, aligned to 4096; what it holds is anything. `len` is at most
/// [`BLOCK_BYTES_MAX`].
pub(super) fn take(len: usize) -> NonNull<u8> {
    let (index, bytes) = size_of(len);
    let mut free = FREE[index].lock();
    if let Some(block) = free.blocks.pop() {
        free.resident = free.resident.saturating_sub(1);
        return block.0;
    }
    let slab = new_slab();
    for at in (bytes..SLAB_BYTES).step_by(bytes) {
        // SAFETY: `at` is below the slab's length.
        free.blocks.push(Block(unsafe { slab.add(at) }));
    }
    slab
}

/// [`SLAB_BYTES`] bytes, aligned to a page, that stay.
fn new_slab() -> NonNull<u8> {
    // An interpreter has no maps.
    if !cfg!(miri)
        && let Ok(mut map) = MmapMut::map_anon(SLAB_BYTES)
    {
        let slab = NonNull::new(map.as_mut_ptr()).expect("a map is somewhere");
        std::mem::forget(map);
        return slab;
    }
    let layout = Layout::from_size_align(SLAB_BYTES, BLOCK_BYTES_MIN).expect("a small constant");
    // SAFETY: the layout has a size, which is all that `alloc` asks.
    let slab = unsafe { alloc(layout) };
    NonNull::new(slab).unwrap_or_else(|| handle_alloc_error(layout))
}

/// Whether a block is made of pages of its own. Where a page is larger than a block (16 or 64 KiB
/// on some aarch64), the kernel would take the whole page for the block's, neighbours and all.
fn is_whole_pages(address: usize, bytes: usize, page_bytes: usize) -> bool {
    address.is_multiple_of(page_bytes) && bytes.is_multiple_of(page_bytes)
}

/// Whether a node of so many bytes gives its pages back.
pub(crate) fn gives_back(bytes: u64) -> bool {
    bytes.is_multiple_of(page_bytes() as u64)
}

/// Bytes of a page of this machine.
fn page_bytes() -> usize {
    static PAGE_BYTES: OnceLock<usize> = OnceLock::new();
    *PAGE_BYTES.get_or_init(|| {
        // SAFETY: the call takes a number only.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // A page that nothing is a multiple of, where the system does not say: nothing is given back.
        usize::try_from(bytes).unwrap_or(usize::MAX)
    })
}

/// Takes back what `take` gave for as many bytes.
///
/// # Safety
/// `block` came from `take(len)`, is given back once, and nobody uses it any more.
pub(super) unsafe fn give(block: NonNull<u8>, len: usize) {
    let (index, bytes) = size_of(len);
    let mut free = FREE[index].lock();
    free.blocks.push(Block(block));
    free.resident += 1;
    if free.resident < 2 * RELEASED_AT_ONCE {
        return;
    }
    let oldest = free.blocks.len() - free.resident;
    for block in &free.blocks[oldest..oldest + RELEASED_AT_ONCE] {
        if is_whole_pages(block.0.as_ptr().addr(), bytes, page_bytes()) {
            // SAFETY: whole pages of a free block; what they hold is of no use. A refusal keeps
            // them resident.
            unsafe { libc::madvise(block.0.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
        }
    }
    free.resident -= RELEASED_AT_ONCE;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_shared_with_a_neighbour_is_never_given_back() {
        for page_bytes in [4096, 16 << 10, 64 << 10] {
            for bytes in (0..SIZES).map(|double| BLOCK_BYTES_MIN << double) {
                for at in (0..SLAB_BYTES).step_by(bytes) {
                    let first = at / page_bytes;
                    let last = (at + bytes - 1) / page_bytes;
                    let shared = first * page_bytes < at || (last + 1) * page_bytes > at + bytes;
                    assert_eq!(is_whole_pages(at, bytes, page_bytes), !shared);
                }
            }
        }
    }

    /// More blocks than keep their pages, taken and given back by turns: none overlaps another.
    #[test]
    fn blocks_keep_what_their_owners_write() {
        // An interpreter is slow, and has no madvise.
        let (count, longest) = if cfg!(miri) {
            (4, 5000)
        } else {
            (4 * RELEASED_AT_ONCE, BLOCK_BYTES_MAX)
        };
        for len in [1, 4096, 5000, longest] {
            let mut held: Vec<_> = (0..count).map(|_| take(len)).collect();
            for round in 0..2_u8 {
                for (index, block) in held.iter().enumerate() {
                    let byte = u8::try_from(index % 200).unwrap() + round;
                    // SAFETY: the block has `len` bytes and is ours.
                    unsafe { block.write_bytes(byte, len) };
                }
                for (index, block) in held.iter().enumerate() {
                    // SAFETY: all `len` bytes were written just now.
                    let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), len) };
                    let byte = u8::try_from(index % 200).unwrap() + round;
                    assert!(bytes == vec![byte; len], "block {index}");
                }
                for block in held.split_off(count / 2) {
                    // SAFETY: `take` gave it for `len`, and it leaves the list here.
                    unsafe { give(block, len) };
                }
                held.extend((0..count - count / 2).map(|_| take(len)));
            }
            for block in held {
                // SAFETY: as above.
                unsafe { give(block, len) };
            }
        }
    }
}
