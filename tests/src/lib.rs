//! # Promises of the whole store, tried on worlds that go wrong
//!
//! ```text
//! image      what a disk holds, cheap to copy        rng, world   chance and time from a seed
//! sim_disk   the disk under the engine               faults       errors at the n-th operation
//! history    what was done to it, and what a crash   images       which of those fates are tried
//!            may leave of it
//! model      what the store may hold after it        subject      the store under test
//! check      one history, all its crashes            campaign     many histories, two threads
//! sweep      one history, a fault at each operation
//! whole      the engine as the subject
//! bits       one store, and every bit of it damaged           allocations  what a thread allocates
//! toy        a small store with planted bugs that proves that all of this catches bugs
//! ```
// One module is a global allocator, which is an unsafe trait.
#![deny(unsafe_code)]

pub mod allocations;
pub mod bits;
pub mod campaign;
pub mod check;
pub mod faults;
pub mod history;
pub mod image;
pub mod images;
pub mod model;
pub mod rng;
pub mod sim_disk;
pub mod subject;
pub mod sweep;
pub mod toy;
pub mod whole;
pub mod world;
