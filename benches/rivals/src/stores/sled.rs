//! sled 0.34: its flush is `sync_file_range`, which does not reach the device's own cache, so no
//! row calls it durable.

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use sled::{Batch, Config, Db, Mode};

struct Sled(Db);

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let database = Config::new()
        .path(setup.dir.join("sled"))
        .cache_capacity(setup.cache_bytes)
        .mode(Mode::HighThroughput)
        .use_compression(false)
        .open()
        .expect("opened");
    Box::new(Sled(database))
}

impl Rival for Sled {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        self.0.flush().expect("flushed");
    }

    fn settle(&self) {
        self.flush();
    }
}

impl Session for &Sled {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        match changes {
            [Change::Put(key, value)] => drop(self.0.insert(key, *value).expect("put")),
            [Change::Delete(key)] => drop(self.0.remove(key).expect("removed")),
            _ => {
                let mut batch = Batch::default();
                for change in changes {
                    match *change {
                        Change::Put(key, value) => batch.insert(key, value),
                        Change::Delete(key) => batch.remove(key),
                    }
                }
                self.0.apply_batch(batch).expect("committed");
            }
        }
        if keep == Keep::Durable {
            self.0.flush().expect("flushed");
        }
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let value = self.0.get(key).expect("read");
        value.map(|value| see(&value)).is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        // It has no snapshots.
        for (at, key) in keys.iter().enumerate() {
            see(at, &self.0.get(key).expect("read").expect("it is there"));
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let mut seen = 0;
        for entry in self.0.range(low..).take(limit as usize) {
            let (key, value) = entry.expect("read");
            see(&key, &value);
            seen += 1;
        }
        seen
    }
}
