//! # Fuzz targets: what Dynomite reads from disks and peers, on arbitrary bytes
//!
//! Each target is one pure function here and one line in `fuzz_targets/`. Under cargo-fuzz
//! (`cargo +nightly fuzz run superblock`) that line is a libFuzzer target; on the stable toolchain
//! it is a program that runs the function over the files it is given, to replay what was found.
//! `cargo test` runs every function over its committed inputs and thousands of mutations of them.
//!
//! What a function promises, beyond not panicking and not looping for ever, it asserts. A fuzzer
//! cannot guess a checksum: a decoder that begins with one gets its input twice, as it is and with
//! the checksum mended, so that the rules behind it are tried too.
//!
//! Where to look: [`decoders`] for each structure of the format, [`log`] for what a crash leaves,
//! [`tree`] and [`allocator`] against models, [`diff`] for two sides of a talk, [`node`] for what
//! clients and operators send.

pub mod allocator;
pub mod decoders;
pub mod diff;
mod ground;
pub mod log;
pub mod node;
pub mod tree;

pub use allocator::allocator;
pub use decoders::{
    batch, body, catalog, leaf_and_branch, log_block, map, region_table, superblock,
};
pub use diff::{diff_frame, diff_peer, diff_trees};
pub use log::{log_scan, recover, superblock_choice};
pub use node::{config, control, text, versions};
pub use tree::tree;

use arbitrary::{Arbitrary, Unstructured};

#[cfg(fuzzing)]
pub use libfuzzer_sys;

/// Makes a function over bytes the whole of a target's file.
#[macro_export]
macro_rules! target {
    ($body:path) => {
        #[cfg(fuzzing)]
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $body(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($body)
        }
    };
}

/// Runs `body` over the files that the command line names.
pub fn replay(body: fn(&[u8])) -> std::io::Result<()> {
    for file in std::env::args_os().skip(1) {
        body(&std::fs::read(&file)?);
        println!("{}: no fault", file.to_string_lossy());
    }
    Ok(())
}

/// The next step of a history; none once the input is at its end, where [`arbitrary`] would go on
/// with zeros for ever.
fn next_of<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> Option<T> {
    if input.is_empty() {
        return None;
    }
    input.arbitrary().ok()
}

/// A target's name and its function: what the replay of the committed inputs goes through.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, by the names of their files.
pub const TARGETS: &[Target] = &[
    ("allocator", allocator),
    ("batch", batch),
    ("body", body),
    ("catalog", catalog),
    ("config", config),
    ("control", control),
    ("diff_frame", diff_frame),
    ("diff_peer", diff_peer),
    ("diff_trees", diff_trees),
    ("log_block", log_block),
    ("log_scan", log_scan),
    ("map", map),
    ("node", leaf_and_branch),
    ("recover", recover),
    ("region_table", region_table),
    ("superblock", superblock),
    ("superblock_choice", superblock_choice),
    ("text", text),
    ("tree", tree),
    ("versions", versions),
];

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;
