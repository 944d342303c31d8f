//! Workloads of a store, each with its raw limit: the least that any store would have to do.
//!
//! Two benches run them: `ratios` alternates store and limit and prints a table, `store` hands them
//! to criterion. Both write to `$DYNOMITE_BENCH_DIR`, or beside the program; other places measure
//! other disks.

mod limits;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

pub use workloads::WORKLOADS;

/// Bytes of a small value and of a large one: the metadata and the images of the Powerset cluster.
pub const SMALL: usize = 150;
/// See [`SMALL`].
pub const LARGE: usize = 140 << 10;

/// Does so many operations and says how long that took.
pub type Runner = Box<dyn FnMut(u64) -> Duration>;

/// One workload, made ready in a folder of its own.
pub struct Workload {
    /// What is done, and by how many.
    pub name: &'static str,
    /// What stands beside it.
    pub limit_name: &'static str,
    /// Bytes of values that one operation moves.
    pub bytes: u64,
    /// The least ratio of the store to its limit that we want.
    pub aim: Option<f64>,
    /// Makes store and limit.
    pub make: fn(&Folder) -> Pair,
}

/// A store at work, and what it cannot beat.
pub struct Pair {
    /// The store.
    pub store: Runner,
    /// Its limit.
    pub limit: Runner,
}

/// Where a workload's files are.
pub struct Folder(TempDir);

impl Folder {
    /// A new one.
    ///
    /// # Panics
    /// Panics if the place takes no folder.
    pub fn new() -> Self {
        let place = std::env::var_os("DYNOMITE_BENCH_DIR").map_or_else(
            || {
                let program = std::env::current_exe().expect("the program has a path");
                program
                    .parent()
                    .expect("the program stands in a folder")
                    .to_path_buf()
            },
            PathBuf::from,
        );
        Self(TempDir::new_in(place).expect("the place takes a folder"))
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

/// Numbers that are the same in every run.
pub struct Numbers(u64);

impl Numbers {
    /// Those of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        scatter(self.0)
    }

    /// The next one below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// So many bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.draw().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

/// The finalizer of `SplitMix64`: neighbours land far apart.
fn scatter(mut mixed: u64) -> u64 {
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// A key of 20 bytes; consecutive numbers are in no order.
pub fn key(number: u64) -> [u8; 20] {
    let mut key = [0; 20];
    key[..8].copy_from_slice(&scatter(number).to_be_bytes());
    key[8..16].copy_from_slice(&number.to_be_bytes());
    key[16..].copy_from_slice(b".key");
    key
}
