//! Reads a store from end to end and compares it with what it may hold.

use crate::child;
use crate::content::{Content, Shape, TREES, Version};
use crate::expected::{Contested, Held, Violation};
use engine::{Error, FingerprintKey, Snapshot, Store, Tree};

/// What was seen.
pub(crate) struct Looked {
    pub(crate) held: Held,
    /// Of the contested versions of each key, those whose bytes are there.
    pub(crate) possible: Contested,
}

/// Reads everything. `settled` says which version a key has that is not contested.
pub(crate) fn look(
    shape: &Shape,
    store: &Store,
    contested: &Contested,
    settled: &dyn Fn(u32, u32) -> Version,
) -> Result<Looked, Violation> {
    let mut looking = Looking {
        shape,
        contested,
        settled,
        seen: vec![false; shape.workers as usize * shape.keys as usize],
        looked: Looked {
            held: Held::default(),
            possible: Contested::new(),
        },
    };
    let snapshot = store.snapshot();
    for (index, name) in TREES.iter().enumerate() {
        match store.tree(name) {
            Ok(tree) => looking.tree(index, &snapshot, &tree)?,
            // Killed before it was created.
            Err(Error::NoSuchTree) => {}
            Err(error) => return Err(refused("opening a tree", &error)),
        }
    }
    looking.missing()?;
    let report = store.verify();
    let report = report.map_err(|error| refused("verifying the store", &error))?;
    if !report.is_sound() {
        let first = report.violations.iter().take(5).map(ToString::to_string);
        let first: Vec<String> = first.collect();
        let told = format!("the store finds damage in itself: {}", first.join("; "));
        return Err(Violation(told));
    }
    Ok(looking.looked)
}

fn refused(doing: &str, error: &Error) -> Violation {
    Violation(format!("{doing}: {error}"))
}

struct Looking<'a> {
    shape: &'a Shape,
    contested: &'a Contested,
    settled: &'a dyn Fn(u32, u32) -> Version,
    seen: Vec<bool>,
    looked: Looked,
}

impl Looking<'_> {
    fn tree(&mut self, index: usize, snapshot: &Snapshot, tree: &Tree) -> Result<(), Violation> {
        let (mut count, mut sum) = (0, 0_u128);
        for entry in snapshot.range(tree, &[], None) {
            let entry = entry.map_err(|error| refused("reading a tree from end to end", &error))?;
            let name = entry.key();
            let place = Shape::parse_name(name).filter(|&(worker, key)| {
                worker < self.shape.workers && key < self.shape.keys && Shape::tree_of(key) == index
            });
            let (worker, key) = place.ok_or_else(|| {
                let name = name.escape_ascii();
                Violation(format!("an entry that was never written: {name}"))
            })?;
            let content = child::found(&entry).map_err(|error| {
                refused(&format!("reading worker {worker}'s key {key}"), &error)
            })?;
            count += 1;
            sum = sum.wrapping_add(fingerprint(&FingerprintKey::PUBLIC, name, &content));
            self.found(worker, key, Some(&content))?;
        }
        let said = snapshot.fingerprint(tree, &[], None);
        let said = said.map_err(|error| refused("asking for a fingerprint", &error))?;
        if (said.count, said.sum.0) != (count, sum) {
            return Err(Violation(format!(
                "the tree \"{}\" says {} entries and fingerprint {:032x}; its entries are {count} \
                 with fingerprint {sum:032x}",
                TREES[index].escape_ascii(),
                said.count,
                said.sum.0
            )));
        }
        self.looked.held.entries += count;
        Ok(())
    }

    /// Keys that no tree has.
    fn missing(&mut self) -> Result<(), Violation> {
        for worker in 0..self.shape.workers {
            for key in 0..self.shape.keys {
                if !self.seen[self.index(worker, key)] {
                    self.found(worker, key, None)?;
                }
            }
        }
        Ok(())
    }

    fn index(&self, worker: u32, key: u32) -> usize {
        worker as usize * self.shape.keys as usize + key as usize
    }

    fn found(&mut self, worker: u32, key: u32, found: Option<&Content>) -> Result<(), Violation> {
        let index = self.index(worker, key);
        self.seen[index] = true;
        if let Some(content) = found {
            let parts = content.parts.iter().map(Vec::len).sum::<usize>();
            self.looked.held.bytes += (content.meta.len() + parts) as u64;
        }
        let is = |version: Version| self.shape.content(worker, key, version).as_ref() == found;
        if let Some(versions) = self.contested.get(&(worker, key)) {
            let there = versions
                .iter()
                .copied()
                .filter(|&version| is(Version(version)));
            self.looked.possible.insert((worker, key), there.collect());
            return Ok(());
        }
        let settled = (self.settled)(worker, key);
        if is(settled) {
            return Ok(());
        }
        let found = match found {
            None => "nothing".to_owned(),
            Some(content) => {
                let lengths: Vec<usize> = content.parts.iter().map(Vec::len).collect();
                format!("an entry with parts of {lengths:?} bytes")
            }
        };
        Err(Violation(format!(
            "lost: worker {worker}'s key {key} must have {settled:?}; {found} is there"
        )))
    }
}

/// The fingerprint of an entry, as its specification says (`dmerkle/FORMAT.md`): computed here once
/// more, so that the engine's own function is not its own judge.
fn fingerprint(key: &FingerprintKey, name: &[u8], content: &Content) -> u128 {
    let mut input = vec![1];
    for bytes in [name, &content.meta] {
        input.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        input.extend_from_slice(bytes);
    }
    input.push(u8::try_from(content.parts.len()).unwrap_or(u8::MAX));
    for part in &content.parts {
        input.extend_from_slice(&(part.len() as u64).to_le_bytes());
        if part.len() <= 1024 {
            input.extend_from_slice(part);
        } else {
            input.extend_from_slice(blake3::hash(part).as_bytes());
        }
    }
    let hash = blake3::keyed_hash(&key.0, &input);
    let (first, _) = hash.as_bytes().split_at(16);
    u128::from_le_bytes(first.try_into().expect("sixteen bytes"))
}
