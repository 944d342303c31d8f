//! fjall: one keyspace. Durable is a batch with `PersistMode::SyncData` (fdatasync of the journal).
//! Large values are separated from keys, as its documentation says for blobs.

use crate::data::Key;
use crate::disk;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode,
    Readable,
};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

struct Fjall {
    dir: PathBuf,
    database: Database,
    keyspace: Keyspace,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let builder = Database::builder(&setup.dir)
        .cache_size(setup.cache_bytes)
        .journal_compression(CompressionType::None);
    let database = builder.open().expect("opened");
    let options = || {
        let options = KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::disabled())
            .index_block_compression_policy(CompressionPolicy::disabled())
            .max_memtable_size(setup.write_buffer_bytes / if setup.tight { 2 } else { 1 })
            // Nearly all gets are of keys that are there.
            .expect_point_read_hits(true);
        if setup.large {
            let separated = KvSeparationOptions::default().compression(CompressionType::None);
            options.with_kv_separation(Some(separated))
        } else {
            options
        }
    };
    let keyspace = database.keyspace("rows", options).expect("a keyspace");
    Box::new(Fjall {
        dir: setup.dir.clone(),
        database,
        keyspace,
    })
}

impl Rival for Fjall {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        self.database
            .persist(PersistMode::SyncData)
            .expect("flushed");
    }

    fn settle(&self) {
        self.keyspace.rotate_memtable_and_wait().expect("flushed");
        let mut calm = 0;
        while calm < 5 {
            let busy = self.database.outstanding_flushes() + self.database.active_compactions();
            calm = if busy == 0 { calm + 1 } else { 0 };
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn log_bytes(&self) -> u64 {
        disk::held_bytes_of(&self.dir, |name| name.ends_with(".jnl"))
    }
}

impl Session for &Fjall {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        if let ([Change::Put(key, value)], Keep::Buffered) = (changes, keep) {
            return self.keyspace.insert(*key, *value).expect("put");
        }
        let mut batch = self.database.batch().durability(match keep {
            Keep::Durable => Some(PersistMode::SyncData),
            Keep::Buffered => None,
        });
        for change in changes {
            match *change {
                Change::Put(key, value) => batch.insert(&self.keyspace, key, value),
                Change::Delete(key) => batch.remove(&self.keyspace, key),
            }
        }
        batch.commit().expect("committed");
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let value = self.keyspace.get(key).expect("read");
        value.map(|value| see(&value)).is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        let snapshot = self.database.snapshot();
        for (at, key) in keys.iter().enumerate() {
            let value = snapshot.get(&self.keyspace, key).expect("read");
            see(at, &value.expect("it is there"));
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let mut seen = 0;
        for entry in self.keyspace.range(low..).take(limit as usize) {
            let (key, value) = entry.into_inner().expect("read");
            see(&key, &value);
            seen += 1;
        }
        seen
    }
}
