//! Every system call on the store's file.

pub mod aligned;
pub mod disk;
pub mod file;
pub mod map;
#[cfg(test)]
pub(crate) mod places;
mod sys;

pub use aligned::AlignedBuf;
pub use disk::Disk;
pub use file::{FileDisk, OpenError};
pub use map::MappedExtent;
