//! Goal: what crosses the C door keeps the rules of memory: handles, borrowed bytes and
//! out-parameters are what their documentation says. Method: a store over memory and without
//! threads, driven through the C signatures alone, so that an interpreter can watch every access.

use super::*;
use crate::store::dynomite_store_close;
use engine::io::Disk;
use engine::world::{Clock, Entropy, World};
use engine::{Geometry, Options, Store};
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Disk for Memory {
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
        let (start, end) = (offset, offset + bytes);
        let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
        self.0.lock().unwrap()[range].fill(0);
        Ok(())
    }

    fn alignment(&self) -> usize {
        512
    }

    fn is_direct(&self) -> bool {
        true
    }
}

struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        1
    }
}

impl Entropy for Still {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0x5a);
    }
}

fn open() -> *mut StoreHandle {
    let world = World {
        clock: Arc::new(Still),
        entropy: Arc::new(Still),
    };
    let geometry = Geometry::tiny();
    let options = Options {
        log_bytes: geometry.ring_bytes,
        geometry,
        memtable_bytes: 64 << 10,
        cache_bytes: 64 << 10,
        ..Options::default()
    };
    let disk = Arc::new(Memory::default());
    Store::format_on(&*disk, &world, &options).unwrap();
    let store = Store::open_on(disk, world, &options).unwrap();
    Box::into_raw(Box::new(StoreHandle(store)))
}

fn put(tree: *mut TreeHandle, key: &[u8], value: &[u8]) -> Status {
    // SAFETY: the tree is open, and the slices have the lengths that are given.
    unsafe { dynomite_put(tree, key.as_ptr(), key.len(), value.as_ptr(), value.len()) }
}

fn get(tree: *mut TreeHandle, key: &[u8]) -> (Status, *mut ValueHandle) {
    // A handle that was never set may stand here: the call must not look at it.
    let mut out = std::mem::MaybeUninit::uninit();
    // SAFETY: the tree is open, the slice has its length, and there is place for a pointer.
    let status = unsafe { dynomite_get(tree, key.as_ptr(), key.len(), out.as_mut_ptr()) };
    // SAFETY: whatever the status, the call has set it.
    (status, unsafe { out.assume_init() })
}

#[test]
fn handles_and_bytes_keep_the_rules_of_memory() {
    let store = open();
    let mut tree = ptr::null_mut();
    // SAFETY: the store is open, the name has its length, `tree` is ours.
    let status = unsafe { dynomite_tree_open(store, b"t".as_ptr(), 1, &raw mut tree) };
    assert_eq!(status, Status::Ok);
    // One in the log, one of an extent of its own, one empty, under keys of which one is empty.
    let values: [&[u8]; 3] = [b"short", &[7; 3000], b""];
    let keys: [&[u8]; 3] = [b"a", b"", b"ccc"];
    for (key, value) in keys.iter().zip(values) {
        assert_eq!(put(tree, key, value), Status::Ok);
    }
    for (key, value) in keys.iter().zip(values) {
        let (status, read) = get(tree, key);
        assert_eq!(status, Status::Ok);
        // SAFETY: the value is open.
        let data = unsafe { dynomite_value_data(read) };
        // SAFETY: the value is open.
        let length = unsafe { dynomite_value_length(read) };
        assert!(!data.is_null());
        // SAFETY: so many bytes stand there until the value is closed.
        let bytes = unsafe { std::slice::from_raw_parts(data, length) };
        assert_eq!(bytes, value);
        // SAFETY: closed once, and not used any more.
        unsafe { dynomite_value_close(read) };
    }
    // SAFETY: the tree is open, and the key has its length.
    let status = unsafe { dynomite_delete(tree, b"a".as_ptr(), 1) };
    assert_eq!(status, Status::Ok);
    let (status, read) = get(tree, b"a");
    assert!(status == Status::NotFound && read.is_null());
    // SAFETY: each closed once, the store before its tree, which is allowed.
    let status = unsafe { dynomite_store_close(store) };
    assert_eq!(status, Status::Ok);
    assert_eq!(put(tree, b"late", b""), Status::Closed);
    let (status, read) = get(tree, b"ccc");
    assert!(status == Status::Closed && read.is_null());
    // SAFETY: closed once, and not used any more.
    unsafe { dynomite_tree_close(tree) };
}

#[test]
fn null_is_refused_or_fine() {
    // SAFETY: NULL is allowed where a handle is wanted.
    assert_eq!(unsafe { dynomite_value_length(ptr::null()) }, 0);
    // SAFETY: as above.
    assert!(unsafe { dynomite_value_data(ptr::null()) }.is_null());
    // SAFETY: as above.
    unsafe { dynomite_value_close(ptr::null_mut()) };
    // SAFETY: as above.
    unsafe { dynomite_tree_close(ptr::null_mut()) };
    // SAFETY: as above.
    let closed = unsafe { dynomite_store_close(ptr::null_mut()) };
    assert_eq!(closed, Status::Ok);
    // SAFETY: as above, and where bytes of length 0 are wanted.
    let refused = unsafe { dynomite_put(ptr::null(), ptr::null(), 0, ptr::null(), 0) };
    assert_eq!(refused, Status::InvalidArgument);
    // SAFETY: as above, and where a handle would be left.
    let refused = unsafe { dynomite_get(ptr::null(), ptr::null(), 0, ptr::null_mut()) };
    assert_eq!(refused, Status::InvalidArgument);
}
