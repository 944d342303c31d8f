//! # libdynomite: the engine behind a C header
//!
//! Handles, statuses and a panic guard; no logic. The header is `include/dynomite.h`, made by
//! cbindgen from this crate and compared with it by a test.
//!
//! How a C program is compiled and linked stands at the header's head, which `cbindgen.toml` holds.
//!
//! Where to look: `status` numbers what can go wrong; `guard` is the door that every call goes
//! through; `arguments` believes what C hands in; `store` and `tree` are the calls.
//!
//! Invariants:
//! - No panic crosses into C: every call that runs the engine does so inside the guard.
//! - A status is never renumbered, and never means something else.
//! - An out-parameter is NULL unless the call returned `OK`.
//! - Each `unsafe` operation rests on what the caller's documentation asks of it, and says so.

mod arguments;
mod guard;
mod status;
mod store;
mod tree;

pub use guard::dynomite_last_error;
pub use status::{Status, dynomite_status_text};
pub use store::{
    StoreHandle, dynomite_create, dynomite_open, dynomite_store_close, dynomite_version,
};
pub use tree::{
    TreeHandle, ValueHandle, dynomite_delete, dynomite_get, dynomite_put, dynomite_tree_close,
    dynomite_tree_open, dynomite_value_close, dynomite_value_data, dynomite_value_length,
};
