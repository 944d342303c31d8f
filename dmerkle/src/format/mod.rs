//! Every on-disk structure, a file each. Offsets live here and nowhere else.
#![doc = include_str!("../../FORMAT.md")]

pub mod body;
pub mod bytes;
pub mod catalog;
pub mod extent;
pub mod layout;
pub mod log_block;
pub mod map;
pub mod node;
pub mod pointer;
pub mod record;
pub mod region_table;
pub mod superblock;

#[cfg(test)]
mod tests;
