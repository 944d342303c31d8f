//! Memory that direct I/O accepts: heap bytes whose address is a multiple of 4096.
//!
//! Invariants: `bytes` points to `len` initialised bytes that this buffer alone owns, taken for the
//! same `len` from where `source` says; with `len` 0 nothing is taken. The bytes do not move when
//! the buffer does, so the kernel may write to them while the owner is passed about.

use super::{arena, slab};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::slice;

/// Heap bytes aligned for direct I/O.
pub struct AlignedBuf {
    bytes: NonNull<u8>,
    len: usize,
    source: Source,
}

/// Where memory is from.
#[derive(Clone, Copy)]
enum Source {
    Slab,
    Arena,
    Malloc,
}

// SAFETY: the buffer owns its bytes as a `Box<[u8]>` does; nothing in it belongs to a thread.
unsafe impl Send for AlignedBuf {}
// SAFETY: through a shared reference the bytes are only read.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// What the address is a multiple of. No device of today asks for more.
    pub const ALIGN: usize = 4096;

    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Self {
        if len <= arena::BYTES_MAX {
            return Self::padded_copy(&[], len);
        }
        let layout = layout(len);
        // SAFETY: `len` is not 0, so the layout has a size, which is all that `alloc_zeroed` asks.
        let bytes = unsafe { alloc_zeroed(layout) };
        match NonNull::new(bytes) {
            Some(bytes) => Self {
                bytes,
                len,
                source: Source::Malloc,
            },
            None => handle_alloc_error(layout),
        }
    }

    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::padded_copy(bytes, bytes.len())
    }

    /// A copy of `bytes`, and zeros behind it up to `len`.
    ///
    /// # Panics
    /// Panics if `len` is less than there are bytes.
    pub fn padded_copy(bytes: &[u8], len: usize) -> Self {
        Self::padded_join([bytes], len)
    }

    /// Copies of `parts`, one behind the other, and zeros behind them up to `len`.
    ///
    /// # Panics
    /// Panics if `len` is less than there are bytes.
    pub fn padded_join<'a>(parts: impl IntoIterator<Item = &'a [u8]>, len: usize) -> Self {
        if len == 0 {
            let mut parts = parts.into_iter();
            assert!(parts.all(<[u8]>::is_empty), "the copy is no shorter");
            return Self::default();
        }
        let (start, source) = take(len);
        // Gives the memory back if a part is too long.
        let copy = Self {
            bytes: start,
            len,
            source,
        };
        let mut at = 0;
        for part in parts {
            assert!(part.len() <= len - at, "the copy is no shorter");
            // SAFETY: `at` is within the allocation or at its end.
            let to = unsafe { start.as_ptr().add(at) };
            // SAFETY: so many bytes are left behind `to`, and new memory overlaps no other.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), to, part.len()) };
            at += part.len();
        }
        // SAFETY: as above.
        let rest = unsafe { start.as_ptr().add(at) };
        // SAFETY: the allocation has so many bytes behind `rest`. Now all are initialised.
        unsafe { rest.write_bytes(0, len - at) };
        copy
    }

    /// Whether `bytes` begin where direct I/O with `alignment` accepts it.
    pub(super) fn is_aligned(bytes: &[u8], alignment: usize) -> bool {
        bytes.as_ptr().addr().is_multiple_of(alignment)
    }
}

/// Memory for `len` bytes, not 0, that may hold anything.
fn take(len: usize) -> (NonNull<u8>, Source) {
    if len <= slab::BLOCK_BYTES_MAX {
        return (slab::take(len), Source::Slab);
    }
    if len <= arena::BYTES_MAX
        && let Some(start) = arena::take(len)
    {
        return (start, Source::Arena);
    }
    let layout = layout(len);
    // SAFETY: `len` is not 0, so the layout has a size, which is all that `alloc` asks.
    let start = unsafe { alloc(layout) };
    let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
    (start, Source::Malloc)
}

fn layout(len: usize) -> Layout {
    Layout::from_size_align(len, AlignedBuf::ALIGN)
        .expect("a buffer is far smaller than isize::MAX")
}

impl Default for AlignedBuf {
    /// No bytes.
    fn default() -> Self {
        Self {
            bytes: NonNull::dangling(),
            len: 0,
            source: Source::Malloc,
        }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        match self.source {
            // SAFETY: `take` gave it for this length, and `drop` runs once.
            Source::Slab => unsafe { slab::give(self.bytes, self.len) },
            // SAFETY: as above.
            Source::Arena => unsafe { arena::give(self.bytes, self.len) },
            // SAFETY: `zeroed` or `take` allocated these bytes with this layout, and `drop` runs
            // once.
            Source::Malloc => unsafe { dealloc(self.bytes.as_ptr(), layout(self.len)) },
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes stand at `bytes` (see the invariants), and the borrow of
        // `self` keeps them from being freed or written.
        unsafe { slice::from_raw_parts(self.bytes.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`; the exclusive borrow of `self` makes this the only reference.
        unsafe { slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for AlignedBuf {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_zeroed_and_writable() {
        for len in [1, 511, 4096, 140 << 10] {
            let mut buf = AlignedBuf::zeroed(len);
            assert!(AlignedBuf::is_aligned(&buf, AlignedBuf::ALIGN));
            assert_eq!(buf.len(), len);
            assert!(buf[..] == vec![0; len]);
            buf[len - 1] = 7;
            let moved = buf;
            assert_eq!(moved[len - 1], 7);
        }
    }

    #[test]
    fn a_padded_copy_ends_in_zeros() {
        let buf = AlignedBuf::padded_copy(&[7; 5000], 8192);
        assert!(AlignedBuf::is_aligned(&buf, AlignedBuf::ALIGN));
        assert!(buf[..5000].iter().all(|&byte| byte == 7));
        assert!(buf[5000..].iter().all(|&byte| byte == 0));
        assert_eq!(buf.len(), 8192);
    }

    #[test]
    fn joined_parts_stand_one_behind_the_other() {
        let parts = [&[1; 5000][..], &[], &[2; 3000]];
        let buf = AlignedBuf::padded_join(parts, 9000);
        assert!(buf[..8000] == parts.concat());
        assert!(buf[8000..] == [0; 1000]);
        assert!(AlignedBuf::padded_join([&[][..]], 0).is_empty());
    }

    #[test]
    #[should_panic(expected = "the copy is no shorter")]
    fn parts_that_are_too_long_together_are_refused() {
        AlignedBuf::padded_join([&[1; 5000][..], &[2; 3193]], 8192);
    }

    /// Filled by one thread, read by two at a time, given back by a third: of every size that a
    /// slab has, and one that it has not.
    #[test]
    fn a_buffer_goes_from_thread_to_thread() {
        for len in [100, 4096, 9000, 40 << 10] {
            let buf = std::thread::spawn(move || {
                let mut buf = AlignedBuf::zeroed(len);
                buf.fill(7);
                buf
            });
            let buf = std::sync::Arc::new(buf.join().unwrap());
            let readers = [(); 2].map(|()| {
                let buf = std::sync::Arc::clone(&buf);
                std::thread::spawn(move || buf[..] == vec![7; len])
            });
            for reader in readers {
                assert!(reader.join().unwrap());
            }
            std::thread::spawn(move || drop(buf)).join().unwrap();
        }
    }

    #[test]
    fn an_empty_buffer_owns_nothing() {
        assert!(AlignedBuf::zeroed(0).is_empty());
        assert!(AlignedBuf::copy_of(&[]).is_empty());
    }
}
