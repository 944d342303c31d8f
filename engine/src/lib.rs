//! # engine: how the bytes survive
//!
//! A store is one file of many named trees, crash-safe, with one log and one allocator.

pub mod alloc;
pub mod io;
pub mod world;
