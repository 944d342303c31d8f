//! What the tests of this folder share.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]
#![allow(dead_code, reason = "no test uses all of it")]

use engine::io::Disk;
use engine::{Geometry, Options};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A store as small as a file's geometry allows.
pub fn small() -> Options {
    Options {
        log_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        cache_bytes: 8 << 20,
        ..Options::default()
    }
}

/// A store in which every edge is near.
pub fn tiny() -> Options {
    Options {
        log_bytes: Geometry::tiny().ring_bytes,
        geometry: Geometry::tiny(),
        memtable_bytes: 16 << 10,
        cache_bytes: 64 << 10,
        ..Options::default()
    }
}

/// A folder beside the build, where direct I/O usually works.
pub fn folder() -> (TempDir, PathBuf) {
    let program = std::env::current_exe().unwrap();
    let dir = TempDir::new_in(program.parent().unwrap()).unwrap();
    let path = dir.path().join("store");
    (dir, path)
}

/// Bytes that follow from a seed.
pub fn value(seed: u32, len: usize) -> Vec<u8> {
    let mut chance = Chance(u64::from(seed) * 2 + 1);
    (0..len).map(|_| chance.next().to_le_bytes()[0]).collect()
}

/// Numbers that follow from a seed.
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        u32::try_from(self.0 >> 33).unwrap()
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.next() % bound
    }
}

/// Every place of the file where `needle` stands.
pub fn places(path: &Path, needle: &[u8]) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    bytes
        .windows(needle.len())
        .enumerate()
        .filter(|(_, window)| *window == needle)
        .map(|(at, _)| at as u64)
        .collect()
}

/// Changes one bit of each place, on the medium.
pub fn rot(path: &Path, places: &[u64]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    for place in places {
        let mut byte = [0];
        file.read_exact_at(&mut byte, *place).unwrap();
        file.write_all_at(&[byte[0] ^ 1], *place).unwrap();
    }
    file.sync_all().unwrap();
}

/// A disk in memory, of sectors of 512 bytes.
#[derive(Default)]
pub struct MemoryDisk(Mutex<Vec<u8>>);

impl MemoryDisk {
    /// The same bytes on another disk: what a kill leaves.
    pub fn copy(&self) -> Arc<Self> {
        Arc::new(Self(Mutex::new(self.0.lock().unwrap().clone())))
    }
}

impl Disk for MemoryDisk {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let from = bytes.get(start..start + buf.len());
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.allocate(offset, buf.len() as u64)?;
        let start = usize::try_from(offset).unwrap();
        self.0.lock().unwrap()[start..start + buf.len()].copy_from_slice(buf);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let end = usize::try_from(offset + bytes).unwrap();
        let mut all = self.0.lock().unwrap();
        let size = all.len().max(end);
        all.resize(size, 0);
        Ok(())
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let end = usize::try_from(offset + bytes).unwrap();
        self.0.lock().unwrap()[start..end].fill(0);
        Ok(())
    }

    fn alignment(&self) -> usize {
        512
    }

    fn is_direct(&self) -> bool {
        true
    }
}
