//! The limits: what the bare machine does with the same bytes.

use crate::{Folder, Numbers, Runner};
use engine::io::{AlignedBuf, Disk, FileDisk};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// Whether the file system has written the blocks of a file before: a first write to space that
/// was only reserved makes it change its own records too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Reserved,
    Written,
}

/// Bytes of the file that limits write to.
const FILE_BYTES: u64 = 2 << 30;

/// A direct write of `bytes`, then fdatasync: one after the other over space of this kind.
pub(crate) fn durable_write(folder: &Folder, bytes: usize, kind: Kind) -> Runner {
    let mut log = Sequential::new(folder, bytes, kind);
    Box::new(move |count| {
        let begin = Instant::now();
        for _ in 0..count {
            log.write();
        }
        begin.elapsed()
    })
}

/// The same, and what was written is read back through the page cache.
pub(crate) fn durable_write_and_read(folder: &Folder, bytes: usize, kind: Kind) -> Runner {
    let mut log = Sequential::new(folder, bytes, kind);
    Box::new(move |count| {
        let begin = Instant::now();
        for _ in 0..count {
            let offset = log.write();
            let mut back = vec![0; bytes];
            log.disk
                .read_cached(offset, &mut back)
                .expect("it was written");
            black_box(back);
        }
        begin.elapsed()
    })
}

struct Sequential {
    disk: FileDisk,
    bytes: AlignedBuf,
    file_bytes: u64,
    at: u64,
}

impl Sequential {
    fn new(folder: &Folder, bytes: usize, kind: Kind) -> Self {
        let bytes = bytes.next_multiple_of(4096);
        // A log is a ring that was written at creation, and is small.
        let file_bytes = match kind {
            Kind::Reserved => 2 * FILE_BYTES,
            Kind::Written if bytes == 4096 => 64 << 20,
            Kind::Written => FILE_BYTES,
        };
        let disk = FileDisk::create(&folder.file("limit")).expect("a new file");
        disk.allocate(0, file_bytes).expect("space");
        let random = Numbers::new(1).bytes(1 << 20);
        if kind == Kind::Written {
            let piece = AlignedBuf::copy_of(&random);
            for offset in (0..file_bytes).step_by(piece.len()) {
                disk.write(offset, &piece).expect("written");
            }
        }
        disk.flush().expect("flushed");
        let mut buf = AlignedBuf::zeroed(bytes);
        for (to, from) in buf.iter_mut().zip(random.iter().cycle()) {
            *to = *from;
        }
        Self {
            disk,
            bytes: buf,
            file_bytes,
            at: 0,
        }
    }

    fn write(&mut self) -> u64 {
        if self.at + self.bytes.len() as u64 > self.file_bytes {
            self.at = 0;
        }
        let offset = self.at;
        self.at += self.bytes.len() as u64;
        self.disk.write(offset, &self.bytes).expect("written");
        self.disk.flush().expect("flushed");
        offset
    }
}

/// Copies of values that lie in memory, chosen at random out of `among`, into new vectors.
pub(crate) fn copy(bytes: usize, among: u64) -> Runner {
    let count = usize::try_from(among).expect("they fit in memory");
    let source = Numbers::new(2).bytes(bytes * count);
    let mut numbers = Numbers::new(3);
    Box::new(move |count| {
        let begin = Instant::now();
        for _ in 0..count {
            let at = usize::try_from(numbers.below(among)).expect("an index") * bytes;
            black_box(source[at..at + bytes].to_vec());
        }
        begin.elapsed()
    })
}

/// Reads of values that lie in the page cache, chosen at random out of `among`.
pub(crate) fn cached_read(folder: &Folder, bytes: usize, among: u64) -> Runner {
    let disk = FileDisk::create(&folder.file("limit")).expect("a new file");
    let step = bytes.next_multiple_of(4096) as u64;
    disk.allocate(0, step * among).expect("space");
    let value = AlignedBuf::copy_of(&Numbers::new(4).bytes(bytes.next_multiple_of(4096)));
    for number in 0..among {
        disk.write(number * step, &value).expect("written");
    }
    let mut back = vec![0; bytes];
    for number in 0..among {
        disk.read_cached(number * step, &mut back).expect("read");
    }
    let mut numbers = Numbers::new(3);
    Box::new(move |count| {
        let begin = Instant::now();
        for _ in 0..count {
            let mut back = vec![0; bytes];
            let offset = numbers.below(among) * step;
            disk.read_cached(offset, &mut back).expect("read");
            black_box(back);
        }
        begin.elapsed()
    })
}

/// Compares values that lie in the page cache and are mapped once for all, chosen at random out of
/// `among`.
pub(crate) fn mapped_compare(folder: &Folder, bytes: usize, among: u64, readers: u64) -> Runner {
    let disk = FileDisk::create(&folder.file("limit")).expect("a new file");
    let value = Numbers::new(4).bytes(bytes);
    let padded =
        AlignedBuf::copy_of(&[&*value, &vec![0; bytes.next_multiple_of(4096) - bytes]].concat());
    let step = padded.len() as u64;
    disk.allocate(0, step * among).expect("space");
    for number in 0..among {
        disk.write(number * step, &padded).expect("written");
    }
    let map = |number| disk.map(number * step, bytes).expect("mapped");
    let shown: Vec<_> = (0..among).map(map).collect();
    let compare = move |number| {
        let number = usize::try_from(number).expect("an index");
        assert!(*shown[number] == *value, "other bytes");
    };
    (0..among).for_each(&compare);
    Box::new(move |count| by_readers(readers, count, among, &compare))
}

/// Has so many readers read numbers below `among`, `count` of them together.
pub(crate) fn by_readers(
    readers: u64,
    count: u64,
    among: u64,
    read: &(impl Fn(u64) + Sync),
) -> Duration {
    let some = |reader| {
        let mut numbers = Numbers::new(3 + reader);
        for _ in 0..count.div_ceil(readers) {
            read(numbers.below(among));
        }
    };
    let begin = Instant::now();
    if readers == 1 {
        some(0);
        return begin.elapsed();
    }
    thread::scope(|scope| {
        for reader in 0..readers {
            scope.spawn(move || some(reader));
        }
    });
    begin.elapsed()
}
