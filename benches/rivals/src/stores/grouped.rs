//! A group commit outside the store, as an application with many durable writers would write it:
//! writers queue their changes, whoever finds no leader leads, takes the whole queue and commits it
//! as one batch for all.

use crate::data::Key;
use crate::rival::{Change, Keep, Rival, Session};
use std::sync::{Condvar, Mutex};

struct Grouped {
    inner: Box<dyn Rival>,
    queue: Mutex<Queue>,
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    leading: bool,
    /// The group that is gathering.
    gathering: u64,
    /// Groups below this are durable.
    durable: u64,
}

pub(crate) fn open(inner: Box<dyn Rival>) -> Box<dyn Rival> {
    Box::new(Grouped {
        inner,
        queue: Mutex::default(),
        done: Condvar::new(),
    })
}

impl Rival for Grouped {
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Member {
            grouped: self,
            inner: self.inner.session(),
        })
    }

    fn flush(&self) {
        self.inner.flush();
    }

    fn settle(&self) {
        self.inner.settle();
    }

    fn log_bytes(&self) -> u64 {
        self.inner.log_bytes()
    }
}

struct Member<'a> {
    grouped: &'a Grouped,
    inner: Box<dyn Session + 'a>,
}

impl Session for Member<'_> {
    fn write(&mut self, changes: &[Change<'_>], keep: Keep) {
        if keep == Keep::Buffered {
            return self.inner.write(changes, keep);
        }
        let mut queue = self.grouped.queue.lock().expect("no panic");
        queue
            .waiting
            .extend(changes.iter().map(|change| match change {
                Change::Put(key, value) => (key.to_vec(), Some(value.to_vec())),
                Change::Delete(key) => (key.to_vec(), None),
            }));
        let group = queue.gathering;
        while queue.durable <= group {
            if queue.leading {
                queue = self.grouped.done.wait(queue).expect("no panic");
                continue;
            }
            queue.leading = true;
            let taken = std::mem::take(&mut queue.waiting);
            queue.gathering += 1;
            let through = queue.gathering;
            drop(queue);
            let batch: Vec<Change<'_>> = taken
                .iter()
                .map(|(key, value)| match value {
                    Some(value) => Change::Put(key, value),
                    None => Change::Delete(key),
                })
                .collect();
            self.inner.write(&batch, Keep::Durable);
            queue = self.grouped.queue.lock().expect("no panic");
            queue.leading = false;
            queue.durable = through;
            self.grouped.done.notify_all();
        }
    }

    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool {
        self.inner.get(key, see)
    }

    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8])) {
        self.inner.get_many(keys, see);
    }

    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64 {
        self.inner.scan(low, limit, see)
    }
}
