//! The disk does what a disk does, and what it is told to do wrong.

use super::*;
use crate::faults::Rule;
use crate::history::Pick;

fn disk() -> SimDisk {
    SimDisk::recording(Image::of_bytes(512, &[0; 4096]))
}

fn fail(disk: &SimDisk, class: Class, nth: u64, for_ever: bool, fault: Fault) {
    disk.set_faults(FaultPlan::none().with(Rule {
        class,
        nth,
        for_ever,
        fault,
    }));
}

fn sector(disk: &SimDisk, at: u64) -> Vec<u8> {
    let mut buf = vec![9; 512];
    disk.read(at * 512, &mut buf).unwrap();
    buf
}

#[test]
fn reads_give_the_newest_write_and_the_history_ends_in_the_same_image() {
    let disk = disk();
    disk.write(512, &[1; 1024]).unwrap();
    disk.write(1024, &[2; 512]).unwrap();
    disk.flush().unwrap();
    disk.allocate(4096, 4096).unwrap();
    disk.write(8192 - 512, &[3; 512]).unwrap();
    disk.punch(512, 512).unwrap();
    assert_eq!(sector(&disk, 1), [0; 512]);
    assert_eq!(sector(&disk, 2), [2; 512]);
    let mut buf = [0; 3];
    disk.read_cached(8189, &mut buf).unwrap();
    assert_eq!(buf, [3; 3]);
    let history = disk.history();
    let epochs = history.epochs();
    let last = epochs.last().unwrap();
    let kept = last.image(&vec![Pick::New; last.atoms.len()]);
    assert_eq!(kept.to_bytes(), disk.image().to_bytes());
}

#[test]
fn the_end_of_the_file_is_where_allocation_put_it() {
    let disk = disk();
    let end = disk.read(4096, &mut [0; 512]).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    disk.allocate(1024, 512).unwrap();
    assert_eq!(disk.image().size(), 4096, "inside the file");
    disk.allocate(4096, 512).unwrap();
    assert_eq!(sector(&disk, 8), [0; 512]);
}

#[test]
#[should_panic(expected = "direct write")]
fn an_unaligned_direct_write_is_the_engines_bug() {
    let _ = disk().write(1, &[0; 512]);
}

#[test]
fn faults_come_at_the_ordered_operation() {
    let disk = disk();
    fail(&disk, Class::Write, 1, false, Fault::Eio);
    disk.write(0, &[1; 512]).unwrap();
    assert!(disk.write(512, &[2; 512]).is_err());
    disk.write(1024, &[3; 512]).unwrap();
    assert_eq!(sector(&disk, 1), [0; 512], "a failed write is not seen");
    fail(&disk, Class::Flush, 0, true, Fault::Eio);
    assert!(disk.flush().is_err() && disk.flush().is_err());
    fail(&disk, Class::Allocate, 0, false, Fault::NoSpace);
    let full = disk.allocate(0, 8192).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.image().size(), 4096);
    fail(&disk, Class::Any, 0, false, Fault::Interrupted);
    let interrupted = disk.read(0, &mut [0; 512]).unwrap_err();
    assert_eq!(interrupted.kind(), io::ErrorKind::Interrupted);
}

#[test]
fn a_short_write_reaches_half_way_and_a_crash_finds_any_of_it() {
    let disk = disk();
    fail(&disk, Class::Write, 0, false, Fault::Short);
    assert!(disk.write(0, &[7; 2048]).is_err());
    assert_eq!(sector(&disk, 1), [7; 512]);
    assert_eq!(sector(&disk, 2), [0; 512]);
    // A later flush promises nothing about a write that failed.
    disk.flush().unwrap();
    let history = disk.history();
    let epochs = history.epochs();
    let last = epochs.last().unwrap();
    assert_eq!(last.atoms.len(), 4);
    assert!(last.image(&[Pick::Old; 4]).holds(0, &[0; 2048]));
    assert!(last.image(&[Pick::New; 4]).holds(0, &[7; 2048]));
}

#[test]
fn a_flush_that_failed_leaves_its_writes_uncertain_until_they_are_written_again() {
    let disk = disk();
    disk.write(0, &[1; 1024]).unwrap();
    fail(&disk, Class::Flush, 0, false, Fault::Eio);
    assert!(disk.flush().is_err());
    disk.write(0, &[2; 512]).unwrap();
    disk.flush().unwrap();
    let history = disk.history();
    let epochs = history.epochs();
    let last = epochs.last().unwrap();
    assert_eq!(last.atoms.len(), 1, "the second sector");
    assert!(last.base.holds(0, &[2; 512]) && last.base.holds(512, &[0; 512]));
    assert!(last.image(&[Pick::New]).holds(512, &[1; 512]));
}

#[test]
fn a_full_disk_says_so_and_recovers_when_space_returns() {
    let disk = disk();
    disk.set_capacity(Some(8192));
    disk.allocate(4096, 4096).unwrap();
    disk.allocate(0, 8192).unwrap();
    let full = disk.allocate(8192, 512).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    disk.punch(1024, 1024).unwrap();
    disk.allocate(8192, 1024).unwrap();
    assert!(disk.allocate(1024, 512).is_err());
    assert!(disk.write(1024, &[1; 512]).is_err(), "a hole needs space");
    disk.set_capacity(Some(16_384));
    disk.write(1024, &[1; 512]).unwrap();
    assert_eq!(disk.counts().unbacked_writes, 1);
    disk.allocate(1024, 1024).unwrap();
    disk.write(1536, &[1; 512]).unwrap();
    assert_eq!(disk.counts().unbacked_writes, 1);
}

#[test]
fn rot_is_durable_at_once_and_heals_when_written() {
    let disk = disk();
    disk.rot(512, Rot::Unreadable);
    assert!(disk.read(0, &mut [0; 1024]).is_err());
    let history = disk.history();
    assert!(history.epochs()[0].base.read(512, &mut [0; 1]).is_err());
    disk.write(512, &[1; 512]).unwrap();
    assert_eq!(sector(&disk, 1), [1; 512]);
}
