//! A store: created, opened, closed.

use crate::arguments::{Out, path as path_of, take};
use crate::guard::guard;
use crate::status::Status;
use engine::{Options, Store};
use std::ffi::c_char;

/// A store, open for reading and writing.
pub struct StoreHandle(pub(crate) Store);

/// The library's version, such as "0.1.0". Never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn dynomite_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}

/// Makes a new store in a new file and opens it. A crash before this returns leaves no file of
/// this name, or a whole and empty store, which `dynomite_open` opens. Its log takes 64 MiB of the
/// disk at once. Its fingerprints are made with the documented public key, so that any two stores
/// compare; who can choose what is written can then make two stores that seem equal.
///
/// # Safety
/// `path` is a string; `out` points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_create(
    path: *const c_char,
    out: *mut *mut StoreHandle,
) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        let out = unsafe { Out::new(out) }?;
        // SAFETY: as this call's own documentation asks.
        let path = unsafe { path_of(path) }?;
        out.give(StoreHandle(Store::create(path, &Options::default())?));
        Ok(Status::Ok)
    })
}

/// Opens a store for reading and writing. What a crash left is recovered first.
///
/// # Safety
/// `path` is a string; `out` points to a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_open(path: *const c_char, out: *mut *mut StoreHandle) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        let out = unsafe { Out::new(out) }?;
        // SAFETY: as this call's own documentation asks.
        let path = unsafe { path_of(path) }?;
        out.give(StoreHandle(Store::open(path, &Options::default())?));
        Ok(Status::Ok)
    })
}

/// Closes a store, so that its next opening has nothing to recover. The handle is gone whatever
/// this returns; what was acknowledged is safe in any case. Its trees are to be closed too, before
/// or after: reads and writes through them answer `CLOSED` from now on. Values that were read stay
/// good. The file stays locked, and its next opening answers `LOCKED`, until the last tree is closed.
///
/// # Safety
/// `store` is NULL or a handle that no other call uses now or later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dynomite_store_close(store: *mut StoreHandle) -> Status {
    guard(|| {
        // SAFETY: as this call's own documentation asks.
        if let Some(store) = unsafe { take(store) } {
            store.0.close()?;
        }
        Ok(Status::Ok)
    })
}
