//! Kinds of operation that take a page each, beyond those that histories are exhausted over.

use super::{Part, Whole, encode, opened_to_read, text};
use crate::image::Image;
use crate::model::{Change, Contents};
use crate::sim_disk::SimDisk;
use crate::subject::{BROKEN, Run, Subject};
use engine::io::Disk;
use engine::{Durability, NewEntry, NewPart, ValueRef};
use parking_lot::Mutex;
use std::sync::Arc;

/// Bytes that a streamed value is pushed in.
const PUSH_BYTES: usize = 700;

/// Bytes of a value that is left off.
const FREED_BYTES: u64 = 24_000;

type Answer = Result<Option<ValueRef>, engine::Error>;

impl Whole {
    /// Free space that is backed, and more of it than a checkpoint wants to find: without it there
    /// is nothing to give back in a history of two operations.
    pub(super) fn make_free_space(&self) -> Result<(), String> {
        let store = self.store()?;
        let Some(tree) = store.trees().pop() else {
            return Ok(());
        };
        match store.tree(&tree.name).map_err(text)?.writer(FREED_BYTES) {
            Ok(writer) => drop(writer),
            Err(engine::Error::DiskFull | engine::Error::StoreFull) => {}
            Err(error) => return Err(text(error)),
        }
        Ok(())
    }

    pub(super) fn stream(
        &self,
        tree: &[u8],
        key: &[u8],
        part: &Part,
        run: &mut Run,
    ) -> Result<(), String> {
        let handle = self.tree(tree, run)?;
        let mut writer = handle.writer(part.0.len() as u64).map_err(text)?;
        for piece in part.0.chunks(PUSH_BYTES) {
            writer.push(piece).map_err(text)?;
        }
        let written = writer.finish().map_err(text)?;
        let change = Change::Put {
            tree: tree.to_vec(),
            key: key.to_vec(),
            value: encode(&[], std::slice::from_ref(&part.0)),
        };
        let entry = NewEntry::default().part(NewPart::Written(written));
        self.issue(&[change], true, run, |_| {
            handle.put_entry(key, entry, Durability::Durable)
        })
        .map(|_| ())
    }

    pub(super) fn delete_range(
        &self,
        tree: &[u8],
        low: &[u8],
        high: &[u8],
        run: &mut Run,
    ) -> Result<(), String> {
        if !self.has_tree(tree)? {
            return Ok(());
        }
        let newest = run.ledger.newest();
        let entries = newest.and_then(|contents| contents.get(tree));
        let is_in = |key: &&Vec<u8>| low <= key.as_slice() && key.as_slice() < high;
        let keys = entries.into_iter().flat_map(|entries| entries.keys());
        let changes: Vec<Change> = keys
            .filter(is_in)
            .map(|key| Change::Delete {
                tree: tree.to_vec(),
                key: key.clone(),
            })
            .collect();
        let handle = self.tree(tree, run)?;
        let poisoned = self.store()?.stats().poisoned.is_some();
        if changes.is_empty() || poisoned {
            // No commit, so nothing is issued. What a failed commit would have put is not seen.
            let removed = handle.delete_range(low, Some(high)).map_err(text)?;
            return same(&removed, &0, "entries removed");
        }
        let count = changes.len() as u64;
        let removed = self.issue(&changes, true, run, |_| {
            handle.delete_range(low, Some(high))
        })?;
        same(&removed, &count, "entries removed")
    }

    pub(super) fn get_async(&mut self) -> Result<(), String> {
        let contents = self.dump()?;
        let store = self.store()?;
        for (name, entries) in &contents {
            let tree = store.tree(name).map_err(text)?;
            let beside = [b"".to_vec(), b"zz".to_vec()];
            for key in entries.keys().chain(&beside) {
                let answers: Arc<Mutex<Vec<Answer>>> = Arc::default();
                let told = Arc::clone(&answers);
                tree.get_async(key, move |answer| told.lock().push(answer));
                // Nobody else is there to answer later.
                let answers = std::mem::take(&mut *answers.lock());
                same(&answers.len(), &1, "answers to one get")?;
                let expected = entries
                    .get(key)
                    .and_then(|value| super::decode(value).1.into_iter().next());
                for answer in answers {
                    let got = answer.map_err(text)?;
                    let got = got.as_deref().map(<[u8]>::to_vec);
                    same(&got, &expected, "bytes of a get that did not wait")?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn backup(&mut self, run: &mut Run) -> Result<(), String> {
        let contents = self.dump()?;
        let sector = run.env.disk.image().sector();
        let disk = Arc::new(SimDisk::of(Image::empty(sector)));
        let copied = self
            .store()?
            .backup_on(Arc::clone(&disk) as Arc<dyn Disk>, run.env.world.clone());
        copied.map_err(text)?;
        let copy = Arc::new(SimDisk::of(disk.image()));
        let mut copy = opened_to_read(&run.env, copy)?;
        let copied: Contents = copy.dump()?;
        same(&copied, &contents, "contents of a backup")
    }
}

/// Opens what the disk holds now, as another machine would that was handed the file.
pub(super) fn read_only(run: &mut Run) -> Result<(), String> {
    let disk = Arc::new(SimDisk::of(run.env.disk.image()));
    let mut opened = opened_to_read(&run.env, Arc::clone(&disk) as Arc<dyn Disk>)?;
    let contents = opened.dump()?;
    let shown = run.ledger.now().check(&contents);
    shown.map_err(|what| format!("{BROKEN}opened for reading: {what}"))?;
    let tree = contents.keys().next();
    if let Some(tree) = tree {
        let tree = opened.store()?.tree(tree).map_err(text)?;
        if tree.put(b"a", b"b").is_ok() {
            return Err(format!("{BROKEN}what is open for reading takes a commit"));
        }
    }
    drop(opened);
    let counts = disk.counts();
    let changed = counts.writes + counts.allocations + counts.punches;
    same(&changed, &0, "changes by an opening for reading")
}

fn same<T: PartialEq>(got: &T, expected: &T, what: &str) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    Err(format!("{BROKEN}other {what}"))
}
