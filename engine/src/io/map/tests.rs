//! Mapped extents show the file's bytes, outlive what they came from, and hold off writers.

use super::*;
use crate::io::{AlignedBuf, Disk, FileDisk, OpenError, places};
use std::fs::OpenOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn filled(bytes: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(bytes);
    for (at, word) in buf.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(at as u64 * 0x9E37_79B9).to_le_bytes()[..word.len()]);
    }
    buf
}

#[test]
fn an_extent_shows_the_file_and_outlives_the_disk() {
    for place in places::all() {
        let disk = FileDisk::create(&place.path().join("store")).unwrap();
        let written = filled(4 << 20);
        disk.write(0, &written).unwrap();
        let mut held = Vec::new();
        for (offset, len) in [(0, 1), (4096, 140 << 10), (4097, 4095), ((4 << 20) - 5, 5)] {
            let extent = disk.map(offset as u64, len).unwrap();
            assert!(extent.is_zero_copy());
            assert!(*extent == written[offset..offset + len]);
            held.push((offset, extent));
        }
        drop(disk);
        for (offset, extent) in held {
            assert!(*extent == written[offset..offset + extent.len()]);
        }
    }
}

#[test]
fn what_is_written_after_mapping_elsewhere_in_the_segment_is_seen() {
    for place in places::all() {
        let disk = FileDisk::create(&place.path().join("store")).unwrap();
        disk.allocate(0, 1 << 20).unwrap();
        let zeros = disk.map(0, 4096).unwrap();
        let written = filled(1 << 20);
        disk.write(4096, &written[4096..]).unwrap();
        assert!(*disk.map(4096, 8192).unwrap() == written[4096..4096 + 8192]);
        assert!(zeros.iter().all(|&byte| byte == 0));
        // The map was made when the file ended here.
        disk.write(1 << 20, &written).unwrap();
        assert!(*disk.map(1 << 20, 1 << 20).unwrap() == *written);
    }
}

#[test]
fn what_was_dropped_from_the_page_cache_is_known_to_be_gone() {
    // Believed resident, a page would be read by whoever touches it, where an error is a signal.
    for place in places::all() {
        let path = place.path().join("store");
        let disk = FileDisk::create(&path).unwrap();
        disk.write(0, &filled(1 << 20)).unwrap();
        disk.flush().unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let segments = Segments::default();
        let shown = segments.map(&file, 4096, 512 << 10).unwrap();
        let Bytes::Shown(range) = &shown.0 else {
            panic!("it is mapped");
        };
        assert!(tells_truth(&file, sys::page_bytes()));
        assert!(segments.is_resident(&file, range));
        if !disk.is_direct() {
            continue; // nothing drops what tmpfs holds
        }
        // Pages in use are not dropped: the map goes, then the pages, then all is asked again.
        drop(shown);
        segments.mapped.store(Arc::default());
        sys::advise(&file, 256 << 10, 4096, libc::POSIX_FADV_DONTNEED);
        let segment = segments.segment(&file, 0).unwrap();
        segments.lists.list(0).lock().add(4096, 512 << 10);
        let range = Shown {
            segment,
            at: 4096,
            len: 512 << 10,
            offset: 4096,
            list: 0,
        };
        assert!(!segments.is_resident(&file, &range));
        drop(range);
        assert!(segments.map(&file, 4096, 512 << 10).is_some());
    }
}

#[test]
fn bytes_that_are_handed_out_are_not_overwritten() {
    for place in places::all() {
        let disk = FileDisk::create(&place.path().join("store")).unwrap();
        disk.write(0, &filled(64 << 10)).unwrap();
        let extent = disk.map(8192, 8192).unwrap();
        let clone = extent.clone();
        drop(extent);
        let block = AlignedBuf::zeroed(4096);
        for offset in [4096, 16384] {
            disk.write(offset, &block).unwrap();
        }
        for offset in [8192, 12288] {
            let write = catch_unwind(AssertUnwindSafe(|| disk.write(offset, &block)));
            assert!(write.is_err());
            let punch = catch_unwind(AssertUnwindSafe(|| disk.punch(offset, 4096)));
            assert!(punch.is_err());
        }
        drop(clone);
        disk.write(8192, &block).unwrap();
        disk.punch(12288, 4096).unwrap();
    }
}

#[test]
fn what_any_thread_was_handed_is_not_overwritten() {
    // Each thread has a list of its own; whoever writes must look into all of them.
    for place in places::all() {
        let disk = FileDisk::create(&place.path().join("store")).unwrap();
        disk.write(0, &filled(64 << 10)).unwrap();
        let block = AlignedBuf::zeroed(4096);
        for _ in 0..2 * LISTS {
            let shown = std::thread::scope(|scope| {
                let reader = scope.spawn(|| disk.map(8192, 4096).unwrap());
                reader.join().unwrap()
            });
            let write = catch_unwind(AssertUnwindSafe(|| disk.write(8192, &block)));
            assert!(write.is_err());
            // Dropped by another thread than the one that has it listed.
            drop(shown);
            disk.write(8192, &block).unwrap();
        }
    }
}

#[test]
fn the_segment_that_was_used_last_stays_mapped() {
    let place = places::all().remove(0);
    let path = place.path().join("store");
    let disk = FileDisk::create(&path).unwrap();
    disk.write(0, &filled(1 << 20)).unwrap();
    let file = File::open(&path).unwrap();
    let segments = Segments::new(64 << 10, 32 << 10, 3);
    let touch = |number: u64| drop(segments.map(&file, number * (64 << 10), 100).unwrap());
    touch(0);
    for number in 1..12 {
        touch(number);
        let mapped = segments.mapped.load();
        assert!(mapped.segments.contains_key(&0), "after {number}");
        assert!(mapped.segments.contains_key(&number));
        touch(0);
    }
}

#[test]
fn few_segments_stay_mapped_and_extents_may_cross_their_borders() {
    for place in places::all() {
        let path = place.path().join("store");
        let disk = FileDisk::create(&path).unwrap();
        let written = filled(1 << 20);
        disk.write(0, &written).unwrap();
        let file = File::open(&path).unwrap();
        let segments = Segments::new(64 << 10, 32 << 10, 2);
        let mut held = Vec::new();
        for step in 0..100 {
            let offset = step * 7919 * 13 % ((1 << 20) - 20_000);
            let extent = segments.map(&file, offset as u64, 20_000).unwrap();
            held.push((offset, extent));
            assert!(segments.mapped.load().segments.len() <= 2);
        }
        assert!(segments.map(&file, 0, (32 << 10) + 1).is_none());
        for (offset, extent) in held {
            assert!(*extent == written[offset..offset + 20_000]);
        }
        assert!(segments.lists.overlap(0, u64::MAX).is_none());
    }
}

#[test]
fn the_list_of_shown_ranges_finds_every_overlap() {
    let mut list = ShownList::default();
    list.add(100, 50);
    list.add(100, 10);
    list.add(100, 10);
    list.add(400, 1);
    for (offset, bytes, overlaps) in [
        (0, 100, false),
        (0, 101, true),
        (109, 1, true),
        (149, 1, true),
        (150, 250, false),
        (150, 251, true),
        (401, 1000, false),
        (120, 0, false),
    ] {
        assert_eq!(
            list.overlap(offset, bytes).is_some(),
            overlaps,
            "{offset}+{bytes}"
        );
    }
    list.remove(100, 50);
    assert!(list.overlap(109, 1).is_some());
    assert!(list.overlap(110, 1).is_none());
    list.remove(100, 10);
    assert!(list.overlap(100, 1).is_some());
    list.remove(100, 10);
    assert!(list.overlap(100, 1).is_none());
}

#[test]
fn the_file_stays_locked_while_its_bytes_are_handed_out() {
    // Else a second opening could overwrite what the holder of the extent reads.
    for place in places::all() {
        let path = place.path().join("store");
        let disk = FileDisk::create(&path).unwrap();
        disk.write(0, &filled(4096)).unwrap();
        let extent = disk.map(0, 4096).unwrap();
        drop(disk);
        assert!(matches!(FileDisk::open(&path), Err(OpenError::Locked)));
        drop(extent);
        FileDisk::open(&path).unwrap();
    }
}

/// The unsafe part alone, over anonymous memory, so that it can be interpreted: ranges are read by
/// several holders while others come and go, and the segment lives as long as the last of them.
#[test]
fn a_range_is_read_while_its_segment_has_an_owner() {
    let mut memory = MmapOptions::new().len(16 << 10).map_anon().unwrap();
    for (at, byte) in memory.iter_mut().enumerate() {
        *byte = u8::try_from(at % 251).unwrap();
    }
    let lists = Arc::new(ShownLists::default());
    let segment = Arc::new(Segment {
        raw: MmapRaw::from(memory),
        used: AtomicU64::new(0),
        lists: Arc::clone(&lists),
    });
    let show = |at: usize, len: usize| {
        lists.list(3).lock().add(at as u64, len as u64);
        MappedExtent(Bytes::Shown(Arc::new(Shown {
            segment: Arc::clone(&segment),
            at,
            len,
            offset: at as u64,
            list: 3,
        })))
    };
    let whole = show(0, 16 << 10);
    let parts = [show(0, 1), show(4095, 4098), show((16 << 10) - 3, 3)];
    drop(segment.clone());
    for (part, at) in parts.iter().zip([0, 4095, (16 << 10) - 3]) {
        assert_eq!(part[..], whole[at..at + part.len()]);
    }
    let reader = parts[1].clone();
    let other = std::thread::spawn(move || reader.iter().map(|&byte| u64::from(byte)).sum::<u64>());
    drop(whole);
    assert!(lists.overlap(5000, 1).is_some());
    let sum: u64 = parts[1].iter().map(|&byte| u64::from(byte)).sum();
    assert_eq!(other.join().unwrap(), sum);
    drop(parts);
    assert!(lists.overlap(0, 16 << 10).is_none());
}
