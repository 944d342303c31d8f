//! What the tests of this folder share.

#![allow(clippy::unwrap_used, reason = "a panic here is the report")]
#![allow(dead_code, reason = "no test uses all of it")]

use engine::io::Disk;
use engine::world::World;
use engine::{Geometry, Options, Store, Tree};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
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

/// What tells that a call began, and what lets it go on.
type Halt = Mutex<Option<(Sender<()>, Receiver<()>)>>;

/// A disk that can be full, and of which a flush or a question for its size can be stopped, or a
/// flush fail.
#[derive(Default)]
pub struct Halting {
    disk: MemoryDisk,
    /// The next flush says that it began, and goes on when it is told.
    flush: Halt,
    /// So does the next question for the size.
    size: Halt,
    pub fails: AtomicBool,
    /// No space is given any more.
    pub full: AtomicBool,
    pub writes: AtomicU64,
}

impl Disk for Halting {
    fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, buf)
    }

    fn write(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.disk.write(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        if stop(&self.flush) {
            return Ok(());
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the device lost its cache"));
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        stop(&self.size);
        self.disk.size()
    }

    fn allocate(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.disk.allocate(offset, bytes)
    }

    fn punch(&self, offset: u64, bytes: u64) -> io::Result<()> {
        self.disk.punch(offset, bytes)
    }

    fn alignment(&self) -> usize {
        self.disk.alignment()
    }

    fn is_direct(&self) -> bool {
        true
    }
}

impl Halting {
    /// A store with an entry, and a checkpoint begun: what is put from here on is not its.
    pub fn store() -> (Arc<Self>, Store, Tree) {
        let disk = Arc::new(Self::default());
        Store::format_on(disk.as_ref(), &World::real(), &tiny()).unwrap();
        let store = Store::open_on(disk.clone(), World::real(), &tiny()).unwrap();
        let tree = store.create_tree(b"t").unwrap();
        tree.put(b"before", b"v").unwrap();
        store.step().unwrap();
        (disk, store, tree)
    }

    /// Stops the next flush: gives what tells that it began, and what lets it go on.
    pub fn halt(&self) -> (Receiver<()>, Sender<()>) {
        halt(&self.flush)
    }

    /// Stops the next question for the size.
    pub fn halt_size(&self) -> (Receiver<()>, Sender<()>) {
        halt(&self.size)
    }
}

fn halt(place: &Halt) -> (Receiver<()>, Sender<()>) {
    let (begun, began) = channel();
    let (go_on, goes_on) = channel();
    *place.lock().unwrap() = Some((begun, goes_on));
    (began, go_on)
}

/// Stops here if that was ordered. Whether it was.
fn stop(place: &Halt) -> bool {
    let ordered = place.lock().unwrap().take();
    if let Some((begun, go_on)) = &ordered {
        begun.send(()).unwrap();
        go_on.recv().unwrap();
    }
    ordered.is_some()
}
