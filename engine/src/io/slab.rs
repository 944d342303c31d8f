//! Where small aligned buffers come from: tree nodes, above all, which fill the cache.
//!
//! malloc leaves a gap of a page behind each of them, so that a cache of 8 KiB nodes takes half as
//! much memory again as it counts. Here blocks of one size stand side by side in slabs.
//!
//! Invariants: a block is in one list or with one owner; lists hold blocks of their size alone. A
//! slab is never given back, but the pages of free blocks are, beyond a few.

use parking_lot::Mutex;
use std::alloc::{Layout, alloc, handle_alloc_error};
use std::ptr::NonNull;

/// Sizes are this, doubled up to [`SIZES`] - 1 times.
const BLOCK_BYTES_MIN: usize = 4096;
const SIZES: usize = 4;

/// Bytes of the largest block; what is longer comes from malloc.
pub(super) const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_MIN << (SIZES - 1);

/// Bytes that are taken from malloc at once.
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
    let layout = Layout::from_size_align(SLAB_BYTES, BLOCK_BYTES_MIN).expect("a small constant");
    // SAFETY: the layout has a size, which is all that `alloc` asks.
    let slab = unsafe { alloc(layout) };
    let Some(slab) = NonNull::new(slab) else {
        handle_alloc_error(layout)
    };
    for at in (bytes..SLAB_BYTES).step_by(bytes) {
        // SAFETY: `at` is below the slab's length.
        free.blocks.push(Block(unsafe { slab.add(at) }));
    }
    slab
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
        #[cfg(not(miri))]
        // SAFETY: the whole pages of a free block; what they hold is of no use. A refusal keeps
        // them resident.
        unsafe {
            libc::madvise(block.0.as_ptr().cast(), bytes, libc::MADV_DONTNEED);
        }
    }
    free.resident -= RELEASED_AT_ONCE;
}
