//! The process that writes until it is killed.
//!
//! Invariant: a line about a step is written after the step returned, in one write of a pipe, so
//! what the parent reads is true whenever the child dies.
//!
//! | line | meaning |
//! |---|---|
//! | `o` | the store is open |
//! | `a WORKER STEP LSN` | the step returned: acknowledged |
//! | `n WORKER STEP` | the disk is full, the step did nothing |
//! | `x WORKER STEP WHY` | the step failed, nobody knows what it did; the worker ends |
//! | `e WHY` | the store did not open |
//! | `!WHAT` | something that no disk that works explains: wrong bytes, damage |

use crate::content::{Content, Shape, TREES, Version};
use crate::load::{Change, Load, Step};
use engine::{Batch, Durability, Error, NewEntry, NewPart, Store, Tree};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

/// Parts from here on are written as a stream, sometimes.
const STREAMED_BYTES_MIN: usize = 20_000;

/// Opens (or creates) the store at `path` and writes a round's load. Returns when nobody listens
/// any more, or when the store takes no writes. A panic of any thread ends the process.
pub fn run(load: &Load, path: &Path, mut lines: &File) -> io::Result<()> {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
    let (store, trees) = match open(load, path) {
        Ok(opened) => opened,
        Err(error) => {
            let line = failure("e", "the store did not open", &error);
            return lines.write_all(line.as_bytes());
        }
    };
    lines.write_all(b"o\n")?;
    thread::scope(|scope| {
        for worker in 0..load.shape.workers {
            let (store, trees) = (&store, &trees);
            scope.spawn(move || {
                Worker {
                    load,
                    worker,
                    store,
                    trees,
                }
                .work(lines)
            });
        }
    });
    // Like a crash: nothing is tidied up.
    store.abandon();
    Ok(())
}

fn open(load: &Load, path: &Path) -> Result<(Store, Vec<Tree>), Error> {
    let options = load.options();
    let store = if path.exists() {
        Store::open(path, &options)?
    } else {
        Store::create(path, &options)?
    };
    let trees = TREES.iter().map(|name| store.tree_or_create(name));
    let trees = trees.collect::<Result<_, _>>()?;
    Ok((store, trees))
}

/// The line about an error: whether the disk, or the machine, can be its cause.
fn failure(line: &str, what: &str, error: &Error) -> String {
    let error_line = error.to_string().replace('\n', " ");
    match error {
        Error::Io { .. }
        | Error::Poisoned { .. }
        | Error::DiskFull
        | Error::StoreFull
        | Error::Locked => format!("{line} {error_line}\n"),
        _ => format!("!{what}: {error_line}\n"),
    }
}

struct Worker<'a> {
    load: &'a Load,
    worker: u32,
    store: &'a Store,
    trees: &'a [Tree],
}

impl Worker<'_> {
    /// Works until nobody listens or a step fails.
    fn work(&self, mut lines: &File) -> io::Result<()> {
        let mut full = false;
        for (index, step) in self.load.steps(self.worker).enumerate() {
            if full && matches!(step, Step::Look(_)) {
                continue; // it may look for what the full disk did not take
            }
            let place = format!("{} {index}", self.worker);
            let line = match self.take(&step) {
                Ok(None) => continue,
                Ok(Some(lsn)) => format!("a {place} {lsn}\n"),
                Err(Fault::Wrong(what)) => format!("!worker {place}: {what}\n"),
                Err(Fault::Store(Error::DiskFull)) => {
                    full = true;
                    format!("n {place}\n")
                }
                Err(Fault::Store(error)) => {
                    let line = failure(&format!("x {place}"), "a write failed", &error);
                    return lines.write_all(line.as_bytes());
                }
            };
            lines.write_all(line.as_bytes())?;
        }
        Ok(())
    }

    fn take(&self, step: &Step) -> Result<Option<u64>, Fault> {
        match step {
            Step::Write {
                changes,
                durability,
            } => self.write(changes, *durability).map(Some),
            Step::Flush => Ok(Some(self.store.flush()?.0)),
            Step::Checkpoint => {
                self.store.checkpoint()?;
                Ok(Some(0))
            }
            Step::Look(change) => self.look(*change).map(|()| None),
        }
    }

    fn write(&self, changes: &[Change], durability: Durability) -> Result<u64, Fault> {
        let mut batch = Batch::new();
        for change in changes {
            let tree = &self.trees[Shape::tree_of(change.key)];
            let name = Shape::name(self.worker, change.key);
            match self.content(*change) {
                Some(content) => {
                    let entry = new_entry(tree, content)?;
                    batch.put_entry(tree, &name, entry);
                }
                None => {
                    batch.delete(tree, &name);
                }
            }
        }
        Ok(self.store.commit(batch, durability)?.0)
    }

    fn content(&self, change: Change) -> Option<Content> {
        let shape = &self.load.shape;
        shape.content(self.worker, change.key, change.version)
    }

    /// Reads a key that nobody else writes.
    fn look(&self, change: Change) -> Result<(), Fault> {
        let tree = &self.trees[Shape::tree_of(change.key)];
        let entry = tree.entry(&Shape::name(self.worker, change.key))?;
        let found = entry.as_ref().map(found).transpose()?;
        if found == self.content(change) {
            return Ok(());
        }
        let (key, version) = (change.key, change.version);
        let is = if version == Version::ABSENT || found.is_none() {
            "is there or is missing"
        } else {
            "has other bytes"
        };
        Err(Fault::Wrong(format!("key {key} read as {version:?} {is}")))
    }
}

/// What an entry holds.
pub(crate) fn found(entry: &engine::Entry) -> Result<Content, Error> {
    let parts = (0..entry.parts_len()).filter_map(|index| entry.part(index).transpose());
    Ok(Content {
        meta: entry.meta().to_vec(),
        parts: parts.collect::<Result<_, _>>()?,
    })
}

/// Every other long part goes in as a stream.
pub(crate) fn new_entry(tree: &Tree, content: Content) -> Result<NewEntry, Error> {
    let mut entry = NewEntry::with_meta(content.meta);
    for part in content.parts {
        let streamed = part.len() >= STREAMED_BYTES_MIN && part.len().is_multiple_of(2);
        entry = entry.part(if streamed {
            let mut writer = tree.writer(part.len() as u64)?;
            for piece in part.chunks(30_000) {
                writer.push(piece)?;
            }
            NewPart::Written(writer.finish()?)
        } else {
            NewPart::Bytes(part)
        });
    }
    Ok(entry)
}

enum Fault {
    Store(Error),
    Wrong(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}
