//! LMDB through heed: memory-mapped, its cache is the page cache. Buffered is `MDB_NOSYNC`, which
//! keeps the tree sound where the file system keeps the order of writes. Keys in ascending order are
//! appended (`MDB_APPEND`).

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags, WithTls};
use std::ops::Bound;

struct Lmdb {
    env: Env<WithTls>,
    table: Database<Bytes, Bytes>,
    sorted: bool,
    buffered: bool,
}

/// What is mapped at most; no memory and no disk until it is used.
const MAP_BYTES: usize = 64 << 30;

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let mut options = EnvOpenOptions::new();
    options.map_size(MAP_BYTES).max_readers(256);
    let mut flags = EnvFlags::empty();
    if setup.buffered {
        flags |= EnvFlags::NO_SYNC;
    }
    if setup.no_read_ahead {
        flags |= EnvFlags::NO_READ_AHEAD;
    }
    #[expect(unsafe_code, reason = "heed has no other way to set flags")]
    // SAFETY: neither flag makes memory unsafe; what they give up is durability and read-ahead.
    unsafe {
        options.flags(flags);
    }
    #[expect(unsafe_code, reason = "heed has no other way to open")]
    // SAFETY: the folder is this process's own, and nobody else changes the mapped file.
    let env = unsafe { options.open(&setup.dir) }.expect("opened");
    let mut begun = env.write_txn().expect("begun");
    let table = env.create_database(&mut begun, None).expect("a database");
    begun.commit().expect("committed");
    Box::new(Lmdb {
        env,
        table,
        sorted: setup.sorted,
        buffered: setup.buffered,
    })
}

impl Rival for Lmdb {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        self.env.force_sync().expect("flushed");
    }

    fn settle(&self) {
        self.flush();
    }
}

impl Session for &Lmdb {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        assert_eq!(self.buffered, keep == Keep::Buffered, "set at opening");
        let flags = if self.sorted {
            PutFlags::APPEND
        } else {
            PutFlags::empty()
        };
        let mut begun = self.env.write_txn().expect("begun");
        for change in changes {
            match *change {
                Change::Put(key, value) => self
                    .table
                    .put_with_flags(&mut begun, flags, key, value)
                    .expect("put"),
                Change::Delete(key) => {
                    self.table.delete(&mut begun, key).expect("removed");
                }
            }
        }
        begun.commit().expect("committed");
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let begun = self.env.read_txn().expect("begun");
        let value = self.table.get(&begun, key).expect("read");
        value.map(see).is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        let begun = self.env.read_txn().expect("begun");
        for (at, key) in keys.iter().enumerate() {
            let value = self.table.get(&begun, key).expect("read");
            see(at, value.expect("it is there"));
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let begun = self.env.read_txn().expect("begun");
        // It has no empty keys, not even to begin at.
        let low = if low.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Included(low)
        };
        let range = (low, Bound::Unbounded);
        let entries = self.table.range(&begun, &range).expect("a range");
        let mut seen = 0;
        for entry in entries.take(limit as usize) {
            let (key, value) = entry.expect("read");
            see(key, value);
            seen += 1;
        }
        seen
    }
}
