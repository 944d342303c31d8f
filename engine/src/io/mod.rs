//! Every system call on the store's file.

pub(crate) mod ahead;
pub mod aligned;
mod arena;
pub mod disk;
pub mod file;
mod lane;
pub mod map;
#[cfg(test)]
pub(crate) mod places;
pub mod pool;
mod ring;
mod slab;
mod sys;

pub use aligned::AlignedBuf;
pub use disk::Disk;
pub use file::{FileDisk, OpenError};
pub use lane::Writes;
pub use map::MappedExtent;
pub use pool::{Backend, IoPool, Op, PoolOptions, Request};
pub(crate) use slab::gives_back;
