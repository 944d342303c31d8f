//! canopydb: one tree, values never compressed. Durable is `commit_with(true)`. Several writers use
//! concurrent transactions and try again on a conflict, as its examples do, and share flushes.

use crate::data::Key;
use crate::disk;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use canopydb::{Database, DbOptions, EnvOptions, Error, TreeOptions};
use std::path::PathBuf;

struct Canopy {
    dir: PathBuf,
    database: Database,
    concurrent: bool,
}

const TREE: &[u8] = b"rows";

fn tree_options() -> TreeOptions {
    let mut options = TreeOptions::default();
    options.compress_overflow_values = None;
    options
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    let mut environment = EnvOptions::new(&setup.dir);
    environment.page_cache_size = usize::try_from(setup.cache_bytes).expect("64 bits");
    let mut options = DbOptions::default();
    if setup.tight {
        let bytes = usize::try_from(setup.write_buffer_bytes).expect("64 bits");
        options.checkpoint_target_size = bytes / 2;
        options.throttle_memory_limit = bytes;
        options.stall_memory_limit = bytes;
    }
    let database = Database::with_options(environment, options).expect("opened");
    let begun = database.begin_write().expect("begun");
    drop(begun.get_or_create_tree_with(TREE, tree_options()));
    begun.commit().expect("committed");
    Box::new(Canopy {
        dir: setup.dir.clone(),
        database,
        concurrent: setup.writers > 1,
    })
}

impl Rival for Canopy {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        self.database.sync().expect("flushed");
    }

    fn settle(&self) {
        self.database.checkpoint().expect("a checkpoint");
    }

    fn log_bytes(&self) -> u64 {
        disk::held_bytes_of(&self.dir, |name| name.starts_with("WAL-"))
    }
}

impl Session for &Canopy {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        loop {
            let begun = self
                .database
                .begin_write_with(self.concurrent)
                .expect("begun");
            {
                let mut tree = begun
                    .get_or_create_tree_with(TREE, tree_options())
                    .expect("a tree");
                for change in changes {
                    match *change {
                        Change::Put(key, value) => tree.insert(key, value).expect("put"),
                        Change::Delete(key) => drop(tree.delete(key).expect("removed")),
                    }
                }
            }
            // A synchronous commit holds the commit lock through its flush; with several writers a
            // commit followed by `sync`, which shares flushes, keeps the same promise faster.
            let apart = self.concurrent && keep == Keep::Durable;
            match begun.commit_with(keep == Keep::Durable && !apart) {
                Ok(_) => {
                    if apart {
                        self.database.sync().expect("flushed");
                    }
                    return;
                }
                Err(Error::WriteConflict) => {}
                Err(error) => panic!("committed: {error}"),
            }
        }
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        let begun = self.database.begin_read().expect("begun");
        let tree = begun.get_tree(TREE).expect("read").expect("a tree");
        let value = tree.get(key).expect("read");
        value.map(|value| see(&value)).is_some()
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        let begun = self.database.begin_read().expect("begun");
        let tree = begun.get_tree(TREE).expect("read").expect("a tree");
        for (at, key) in keys.iter().enumerate() {
            see(at, &tree.get(key).expect("read").expect("it is there"));
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let begun = self.database.begin_read().expect("begun");
        let tree = begun.get_tree(TREE).expect("read").expect("a tree");
        let mut seen = 0;
        for entry in tree.range(low..).expect("a range").take(limit as usize) {
            let (key, value) = entry.expect("read");
            see(&key, &value);
            seen += 1;
        }
        seen
    }
}
