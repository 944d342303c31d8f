//! A tree of a store, and the values of its keys.

use crate::arguments::{Out, bytes, handle, take};
use crate::guard::guard;
use crate::status::Status;
use crate::store::StoreHandle;
use engine::Tree;
use std::ptr;

/// A tree of an open store.
pub struct TreeHandle(Tree);

/// A value that was read: a copy, which nothing changes.
pub struct ValueHandle(Vec<u8>);

/// The tree of a name (0 to 255 bytes), created if it is not there.
///
/// # Safety
/// `store` is open; `name` has `name_length` bytes; `out` points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_tree_open(
    store: *const StoreHandle,
    name: *const u8,
    name_length: usize,
    out: *mut *mut TreeHandle,
) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        let out = unsafe { Out::new(out) }?;
        // SAFETY: as this call's own documentation asks.
        let store = unsafe { handle(store) }?;
        // SAFETY: as this call's own documentation asks.
        let name = unsafe { bytes(name, name_length) }?;
        out.give(TreeHandle(store.0.tree_or_create(name)?));
        Ok(Status::Ok)
    })
}

/// Gives a tree's handle back.
///
/// # Safety
/// `tree` is NULL or a handle that no other call uses now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_tree_close(tree: *mut TreeHandle) {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        drop(unsafe { take(tree) });
        Ok(Status::Ok)
    });
}

/// Sets the value of a key. When it returns OK, the value survives a power cut.
///
/// # Safety
/// `tree` is open; `key` has `key_length` bytes and `value` has `value_length`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_put(
    tree: *const TreeHandle,
    key: *const u8,
    key_length: usize,
    value: *const u8,
    value_length: usize,
) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        let tree = unsafe { handle(tree) }?;
        // SAFETY: as this call's own documentation asks.
        let key = unsafe { bytes(key, key_length) }?;
        // SAFETY: as this call's own documentation asks.
        let value = unsafe { bytes(value, value_length) }?;
        tree.0.put(key, value)?;
        Ok(Status::Ok)
    })
}

/// Reads the value of a key, verified; `NOT_FOUND` if there is none.
///
/// # Safety
/// `tree` is open; `key` has `key_length` bytes; `out` points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_get(
    tree: *const TreeHandle,
    key: *const u8,
    key_length: usize,
    out: *mut *mut ValueHandle,
) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        let out = unsafe { Out::new(out) }?;
        // SAFETY: as this call's own documentation asks.
        let tree = unsafe { handle(tree) }?;
        // SAFETY: as this call's own documentation asks.
        let key = unsafe { bytes(key, key_length) }?;
        Ok(match tree.0.get(key)? {
            None => Status::NotFound,
            Some(value) => {
                out.give(ValueHandle(value));
                Status::Ok
            }
        })
    })
}

/// Removes a key. One that is not there is no error. When it returns OK, the removal survives a
/// power cut.
///
/// # Safety
/// `tree` is open; `key` has `key_length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_delete(
    tree: *const TreeHandle,
    key: *const u8,
    key_length: usize,
) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        let tree = unsafe { handle(tree) }?;
        // SAFETY: as this call's own documentation asks.
        let key = unsafe { bytes(key, key_length) }?;
        tree.0.delete(key)?;
        Ok(Status::Ok)
    })
}

/// The bytes of a value, until it is closed. Not NULL, even for an empty value, unless `value` is.
///
/// # Safety
/// `value` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_value_data(value: *const ValueHandle) -> *const u8 {
    // SAFETY: as this call's own documentation asks.
    unsafe { handle(value) }.map_or(ptr::null(), |value| value.0.as_ptr())
}

/// How many bytes a value has; 0 if `value` is NULL.
///
/// # Safety
/// `value` is NULL or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_value_length(value: *const ValueHandle) -> usize {
    // SAFETY: as this call's own documentation asks.
    unsafe { handle(value) }.map_or(0, |value| value.0.len())
}

/// Gives a value back.
///
/// # Safety
/// `value` is NULL or a handle that no other call uses now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_value_close(value: *mut ValueHandle) {
    // SAFETY: as this call's own documentation asks. To free bytes cannot panic.
    drop(unsafe { take(value) });
}

#[cfg(test)]
mod tests;
