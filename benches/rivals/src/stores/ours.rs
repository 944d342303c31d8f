//! Dynomite. Large values are shown without a copy, as LMDB and RocksDB show theirs.

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session, Setup};
use engine::{Batch, Durability, EntryRef, NewEntry, Options, Store, Tree};
use std::borrow::Cow;
use std::ops::ControlFlow;

pub(crate) struct Ours {
    store: Store,
    tree: Tree,
    large: bool,
}

pub(crate) fn open(setup: &Setup) -> Box<dyn Rival> {
    Box::new(open_ours(setup))
}

pub(crate) fn open_ours(setup: &Setup) -> Ours {
    let file = setup.dir.join("store");
    let options = Options {
        cache_bytes: setup.cache_bytes,
        // While one is written to the tree, the next one fills.
        memtable_bytes: setup.write_buffer_bytes / if setup.tight { 2 } else { 1 },
        // The node's own is 1 GiB, the library's 64 MiB: as large as a checkpoint's work.
        log_bytes: 256 << 20,
        ..Options::default()
    };
    let store = if file.exists() {
        Store::open(&file, &options).expect("opened")
    } else {
        Store::create(&file, &options).expect("created")
    };
    let tree = store.tree_or_create(b"rows").expect("a tree");
    Ours {
        store,
        tree,
        large: setup.large,
    }
}

impl Ours {
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}

impl Rival for Ours {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(self)
    }

    fn flush(&self) {
        self.store.flush().expect("flushed");
    }

    fn settle(&self) {
        // What the first retires, the second's stamp releases.
        for _ in 0..3 {
            self.store.checkpoint().expect("a checkpoint");
        }
        while self.store.punch_at_rest(None).expect("punched") > 0 {}
    }

    fn log_bytes(&self) -> u64 {
        // Superblocks and ring.
        self.store.stats().log_bytes + (64 << 10)
    }

    fn live_log_bytes(&self) -> Option<u64> {
        Some(self.store.stats().log_used_bytes)
    }
}

fn durability(keep: Keep) -> Durability {
    match keep {
        Keep::Durable => Durability::Durable,
        Keep::Buffered => Durability::Buffered,
    }
}

impl Session for &Ours {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        match changes {
            [Change::Put(key, value)] if keep == Keep::Durable => {
                self.tree.put(key, value).expect("put");
            }
            [Change::Put(key, value)] => {
                let entry = NewEntry::plain(*value);
                self.tree
                    .put_entry(key, entry, Durability::Buffered)
                    .expect("put");
            }
            _ => {
                let mut batch = Batch::new();
                for change in changes {
                    match change {
                        Change::Put(key, value) => batch.put(&self.tree, key, *value),
                        Change::Delete(key) => batch.delete(&self.tree, key),
                    };
                }
                self.store
                    .commit(batch, durability(keep))
                    .expect("committed");
            }
        }
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        if self.large {
            let value = self.tree.get_ref(key).expect("read");
            value.map(|value| see(&value)).is_some()
        } else {
            let show = |entry: EntryRef<'_>| see(&value_of(entry));
            self.tree.read(key, show).expect("read").is_some()
        }
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        let snapshot = self.store.snapshot();
        for (at, key) in keys.iter().enumerate() {
            let show = |entry: EntryRef<'_>| see(at, &value_of(entry));
            let found = snapshot.read(&self.tree, key, show).expect("read");
            assert!(found.is_some(), "it is there");
        }
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        let mut seen = 0;
        let show = |entry: EntryRef<'_>| {
            see(entry.key(), &value_of(entry));
            seen += 1;
            if seen == limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        if limit > 0 {
            self.tree.visit(low, None, show).expect("read");
        }
        seen
    }
}

fn value_of(entry: EntryRef<'_>) -> Cow<'_, [u8]> {
    entry.value().expect("read").expect("a value")
}
