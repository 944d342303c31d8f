//! No store: what the device does with the same bytes, written O_DIRECT one after the other and
//! flushed with fdatasync each time.
//!
//! "Space of the same kind": a log's space was written before (64 MiB, round and round); values go
//! to space that was only reserved, and from the second lap on to space that was written.

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use engine::io::{AlignedBuf, Disk, FileDisk};
use std::sync::Mutex;

/// What is reserved for values.
const VALUES_BYTES: u64 = 4 << 30;
const LOG_BYTES: u64 = 64 << 20;

struct Bare(Mutex<Laps>);

struct Laps {
    disk: FileDisk,
    bytes: u64,
    at: u64,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let disk = FileDisk::create(&setup.dir.join("bare")).expect("a new file");
    let bytes = if setup.large { VALUES_BYTES } else { LOG_BYTES };
    disk.allocate(0, bytes).expect("space");
    if !setup.large {
        let mut piece = AlignedBuf::zeroed(1 << 20);
        piece.fill(0x5A);
        for offset in (0..bytes).step_by(piece.len()) {
            disk.write(offset, &piece).expect("written");
        }
    }
    disk.flush().expect("flushed");
    Box::new(Bare(Mutex::new(Laps { disk, bytes, at: 0 })))
}

impl Rival for Bare {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {}

    /// The next writes begin again at the front.
    fn settle(&self) {
        self.0.lock().expect("no panic").at = 0;
    }
}

impl Session for &Bare {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        let length = |change: &Change<'_>| match change {
            Change::Put(key, value) => key.len() + value.len(),
            Change::Delete(key) => key.len(),
        };
        let bytes: usize = changes.iter().map(length).sum();
        let mut buf = AlignedBuf::zeroed(bytes.next_multiple_of(4096));
        let mut at = 0;
        for change in changes {
            if let Change::Put(_, value) = change {
                buf[at..at + value.len()].copy_from_slice(value);
                at += value.len();
            }
        }
        let mut laps = self.0.lock().expect("no panic");
        if laps.at + buf.len() as u64 > laps.bytes {
            laps.at = 0;
        }
        laps.disk.write(laps.at, &buf).expect("written");
        laps.at += buf.len() as u64;
        if keep == Keep::Durable {
            laps.disk.flush().expect("flushed");
        }
    }

    fn get(&mut self, _: &[u8], _: &mut dyn FnMut(&[u8])) -> bool {
        unreachable!("the bare disk is only written to")
    }

    fn get_many(&mut self, _: &[Key], _: &mut dyn FnMut(usize, &[u8])) {
        unreachable!("the bare disk is only written to")
    }

    fn scan(&mut self, _: &[u8], _: u64, _: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        unreachable!("the bare disk is only written to")
    }
}
