//! RocksDB, tuned as its wiki's "Setup Options and Basic Tuning" says: bloom filters of 10 bits,
//! blocks of 16 KiB, dynamic level sizes, files synced as they are written, the log's files recycled
//! (so that fdatasync changes no file size). Large values go to blob files, with their garbage
//! collected. Durable is `WriteOptions::sync`.

use crate::data::Key;
use crate::disk;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, FlushOptions, Options, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};
use std::path::PathBuf;

struct Rocks {
    dir: PathBuf,
    database: DB,
    durable: WriteOptions,
    buffered: WriteOptions,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let mut blocks = BlockBasedOptions::default();
    let cache = Cache::new_lru_cache(usize::try_from(setup.cache_bytes).expect("64 bits"));
    blocks.set_block_cache(&cache);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_block_size(if setup.tight { 4 << 10 } else { 16 << 10 });
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_block_based_table_factory(&blocks);
    let buffer = usize::try_from(setup.write_buffer_bytes).expect("64 bits");
    // Two of them may be full.
    options.set_write_buffer_size(if setup.tight { buffer / 2 } else { buffer });
    options.set_max_background_jobs(4);
    options.set_bytes_per_sync(1 << 20);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_recycle_log_file_num(2);
    if setup.large {
        options.set_enable_blob_files(true);
        options.set_min_blob_size(4096);
        options.set_blob_compression_type(DBCompressionType::None);
        options.set_enable_blob_gc(true);
        options.set_blob_gc_age_cutoff(0.5);
        options.set_blob_gc_force_threshold(0.3);
    }
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    Box::new(Rocks {
        dir: setup.dir.clone(),
        database: DB::open(&options, setup.dir.join("rocksdb")).expect("opened"),
        durable,
        buffered: WriteOptions::default(),
    })
}

impl Rival for Rocks {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        self.database.flush_wal(true).expect("flushed");
    }

    fn settle(&self) {
        let mut wait = FlushOptions::default();
        wait.set_wait(true);
        self.database.flush_opt(&wait).expect("flushed");
        self.database
            .wait_for_compact(&WaitForCompactOptions::default())
            .expect("compacted");
    }

    fn log_bytes(&self) -> u64 {
        disk::held_bytes_of(&self.dir, |name| name.ends_with(".log"))
    }
}

impl Session for &Rocks {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        let options = match keep {
            Keep::Durable => &self.durable,
            Keep::Buffered => &self.buffered,
        };
        if let [Change::Put(key, value)] = changes {
            return self.database.put_opt(key, value, options).expect("put");
        }
        let mut batch = WriteBatch::default();
        for change in changes {
            match *change {
                Change::Put(key, value) => batch.put(key, value),
                Change::Delete(key) => batch.delete(key),
            }
        }
        self.database.write_opt(batch, options).expect("committed");
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let value = self.database.get_pinned(key).expect("read");
        value.map(|value| see(&value)).is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        let snapshot = self.database.snapshot();
        for (at, key) in keys.iter().enumerate() {
            let value = snapshot.get_pinned(key).expect("read");
            see(at, &value.expect("it is there"));
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let mut entries = self.database.raw_iterator();
        entries.seek(low);
        let mut seen = 0;
        while seen < limit && entries.valid() {
            let (key, value) = entries.item().expect("it is valid");
            see(key, value);
            seen += 1;
            entries.next();
        }
        entries.status().expect("read");
        seen
    }
}
