//! # dmerkle: what the bytes of a Dynomite store mean
//!
//! Pure: no file, no thread, no clock, no unsafe. Everything here is a function from bytes (or
//! steps that ask for bytes) to meaning; how the bytes survive is the engine's business.
#![forbid(unsafe_code)]

pub mod check;
pub mod diff;
pub mod error;
pub mod fingerprint;
pub mod format;
pub mod geometry;
pub mod recover;
pub mod tree;
pub mod types;

pub use error::{Corrupt, Fault, Place, Structure};
pub use geometry::Geometry;
pub use types::{
    BlockId, Generation, Incarnation, Lsn, OpeningId, Order, Run, Sum, Summary, TreeId,
};
