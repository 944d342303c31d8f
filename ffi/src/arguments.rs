//! What C hands in, checked as far as it can be: that a pointer is NULL is seen here, where it
//! points is the caller's word.

use crate::guard::Failure;
use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// The bytes of a pointer and a length.
///
/// # Safety
/// Unless `length` is 0, `data` is NULL or points to `length` bytes that nobody changes during `'a`.
pub(crate) unsafe fn bytes<'a>(data: *const u8, length: usize) -> Result<&'a [u8], Failure> {
    if length == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::argument(
            "the bytes are NULL, but their length is not 0",
        ));
    }
    if isize::try_from(length).is_err() {
        return Err(Failure::argument(
            "no bytes are as long as this length says",
        ));
    }
    // SAFETY: not NULL and of a possible length, as seen; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

/// The path of a C string.
///
/// # Safety
/// `path` is NULL or points to bytes that end with a NUL and that nobody changes during `'a`.
pub(crate) unsafe fn path<'a>(path: *const c_char) -> Result<&'a Path, Failure> {
    if path.is_null() {
        return Err(Failure::argument("the path is NULL"));
    }
    // SAFETY: not NULL, as seen; the rest is the caller's promise.
    let path = unsafe { CStr::from_ptr(path) };
    Ok(Path::new(OsStr::from_bytes(path.to_bytes())))
}

/// The object behind a handle.
///
/// # Safety
/// `handle` is NULL or came from [`Out::give`] and is not closed during `'a`.
pub(crate) unsafe fn handle<'a, T>(handle: *const T) -> Result<&'a T, Failure> {
    // SAFETY: a handle that is not NULL points to a live object, by the caller's promise; only
    // shared references to it are ever made.
    unsafe { handle.as_ref() }.ok_or_else(|| Failure::argument("the handle is NULL"))
}

/// Takes back the object behind a handle, if there is one.
///
/// # Safety
/// `handle` is NULL or came from [`Out::give`], and is not used afterwards.
pub(crate) unsafe fn take<T>(handle: *mut T) -> Option<Box<T>> {
    // SAFETY: `Out::give` made it from a box, and the caller promises that this is its last use.
    (!handle.is_null()).then(|| unsafe { Box::from_raw(handle) })
}

/// Where a call leaves the handle that it makes. NULL is left there until it does.
pub(crate) struct Out<'a, T>(&'a mut *mut T);

impl<T> Out<'_, T> {
    /// # Safety
    /// `out` is NULL or points to a pointer that only this call uses.
    pub(crate) unsafe fn new(out: *mut *mut T) -> Result<Self, Failure> {
        if out.is_null() {
            return Err(Failure::argument("the out-parameter is NULL"));
        }
        // SAFETY: not NULL, as seen, and the caller's to give. What stands there may never have been
        // set: so it is written before it is referred to.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: as above, and it was set just now.
        Ok(Self(unsafe { &mut *out }))
    }

    pub(crate) fn give(self, object: T) {
        *self.0 = Box::into_raw(Box::new(object));
    }
}
