//! Every system call on the store's file.

pub mod disk;

pub use disk::Disk;
