//! Reads that never wait: what is in memory is answered before the call returns, for the rest the
//! I/O pool brings one node or part after the other, and its thread goes on where the last one
//! stopped. The same steps as a blocking read, in another loop.
//!
//! Invariants: the caller's thread makes no call that waits for the disk; a completion is called
//! exactly once, with no lock held; the state that is read is held until the answer is there.

use crate::cache::{CachedNode, place_of, verify_node};
use crate::core::Core;
use crate::entry::Entry;
use crate::error::Error;
use crate::io::{AlignedBuf, Op, Request};
use crate::planted::{self, Bug};
use crate::snapshot::Snapshot;
use crate::tree::Tree;
use crate::value::ValueRef;
use crate::view::{Seen, View};
use dmerkle::format::body::PartRef;
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Lookup, Step};
use dmerkle::{Place, TreeId};
use std::io;
use std::sync::Arc;

/// The longest part that is copied from the page cache in the caller's thread: some 30
/// microseconds.
const INLINE_BYTES_MAX: usize = 256 << 10;

type EntryDone = Box<dyn FnOnce(Result<Option<Entry>, Error>) + Send>;
type ValueDone = Box<dyn FnOnce(Result<Option<ValueRef>, Error>) + Send>;

impl Tree {
    /// The value of a key, as [`Tree::get`], without waiting. What is in memory is answered before
    /// this returns; else `completion` runs on a thread of the store, and should not wait for
    /// anything.
    pub fn get_async(
        &self,
        key: &[u8],
        completion: impl FnOnce(Result<Option<ValueRef>, Error>) + Send + 'static,
    ) {
        self.entry_async(key, |entry| first_part(entry, Box::new(completion)));
    }

    /// The entry of a key, as [`Tree::entry`], without waiting; see [`Tree::get_async`].
    pub fn entry_async(
        &self,
        key: &[u8],
        completion: impl FnOnce(Result<Option<Entry>, Error>) + Send + 'static,
    ) {
        if let Err(refused) = self.refuse_dropped() {
            return completion(Err(refused));
        }
        loop {
            let view = View::newest(self.core());
            let seen = if planted::has(Bug::AsyncReadsBase) {
                Seen::Below(view.state.base.root(self.id()))
            } else {
                view.look(self.id(), key, false)
            };
            if !matches!(seen, Seen::Overtaken) {
                return go_on(view, seen, self.id(), key, Box::new(completion));
            }
        }
    }
}

impl Snapshot {
    /// The value of a key, as [`Tree::get_async`].
    pub fn get_async(
        &self,
        tree: &Tree,
        key: &[u8],
        completion: impl FnOnce(Result<Option<ValueRef>, Error>) + Send + 'static,
    ) {
        self.entry_async(tree, key, |entry| first_part(entry, Box::new(completion)));
    }

    /// The entry of a key, as [`Tree::entry_async`].
    pub fn entry_async(
        &self,
        tree: &Tree,
        key: &[u8],
        completion: impl FnOnce(Result<Option<Entry>, Error>) + Send + 'static,
    ) {
        match self.held_for(tree) {
            Err(refused) => completion(Err(refused)),
            Ok(held) => {
                let seen = held.view.look(tree.id(), key, true);
                go_on(
                    held.view.clone(),
                    seen,
                    tree.id(),
                    key,
                    Box::new(completion),
                );
            }
        }
    }
}

impl Entry {
    /// The whole part `index`, verified, as [`Entry::part`], without waiting; see
    /// [`Tree::get_async`].
    pub fn part_async(
        &self,
        index: usize,
        completion: impl FnOnce(Result<Option<ValueRef>, Error>) + Send + 'static,
    ) {
        self.read_part(index, Box::new(completion));
    }

    fn read_part(&self, index: usize, done: ValueDone) {
        let Some(PartRef::Extent(extent)) = self.body().parts().nth(index) else {
            // In the entry itself, or not there.
            return done(self.part_shared(index));
        };
        let core = self.core();
        let offset = core.identity.geometry.offset_of(extent.start());
        let len = usize::try_from(extent.length()).expect("at most 256 MiB");
        if len <= INLINE_BYTES_MAX {
            let mut bytes = AlignedBuf::zeroed(len);
            // An error is met again by the pool, and told from there.
            if let Ok(true) = core.disk.read_resident(offset, &mut bytes) {
                return done(self.verified(index, Ok(bytes)));
            }
        }
        let entry = self.clone();
        core.pool.submit(Request {
            op: Op::ReadCached { offset, len },
            done: Box::new(move |read| done(entry.verified(index, read))),
        });
    }

    /// What was read of part `index`, if it is that.
    fn verified(
        &self,
        index: usize,
        read: io::Result<AlignedBuf>,
    ) -> Result<Option<ValueRef>, Error> {
        let Some(PartRef::Extent(extent)) = self.body().parts().nth(index) else {
            return Ok(None);
        };
        let offset = self.core().identity.geometry.offset_of(extent.start());
        let bytes = read.map_err(Error::reading("reading an extent", offset))?;
        extent
            .verify(&bytes)
            .map_err(|corrupt| corrupt.at(Place::Block(extent.start())))?;
        Ok(Some(ValueRef::read(bytes)))
    }
}

fn first_part(entry: Result<Option<Entry>, Error>, done: ValueDone) {
    match entry {
        Ok(Some(entry)) => entry.read_part(0, done),
        Ok(None) => done(Ok(None)),
        Err(error) => done(Err(error)),
    }
}

fn go_on(view: View, seen: Seen, tree: TreeId, key: &[u8], done: EntryDone) {
    match seen {
        Seen::Entry(entry) => done(Ok(Some(entry))),
        Seen::Absent | Seen::Overtaken => done(Ok(None)),
        Seen::Below(root) if root.pointer.is_none() => done(Ok(None)),
        Seen::Below(root) => {
            let descent = Descent {
                lookup: Lookup::new(key.into()),
                key: key.into(),
                view,
                tree,
                done,
            };
            descent.go_on(root.pointer);
        }
    }
}

/// A lookup on its way down.
struct Descent {
    lookup: Lookup<Arc<[u8]>>,
    key: Arc<[u8]>,
    view: View,
    tree: TreeId,
    done: EntryDone,
}

/// What a node said.
enum Next {
    Need(Pointer),
    Done(Result<Option<Entry>, Error>),
}

impl Descent {
    /// Goes on at `pointer`: through all nodes in memory, then the pool brings the next.
    fn go_on(mut self, mut pointer: Pointer) {
        while let Some(node) = self.view.core.cache.get(&pointer) {
            match self.step(&node) {
                Next::Need(next) => pointer = next,
                Next::Done(answer) => return (self.done)(answer),
            }
        }
        let core = Arc::clone(&self.view.core);
        let (offset, len) = place_of(&core.identity.geometry, &pointer);
        core.pool.submit(Request {
            op: Op::Read { offset, len },
            done: Box::new(move |read| self.take(&pointer, read)),
        });
    }

    /// The node that was asked for has come.
    fn take(mut self, pointer: &Pointer, read: io::Result<AlignedBuf>) {
        let (offset, _) = place_of(&self.core().identity.geometry, pointer);
        let node = read
            .map_err(Error::reading("reading a tree node", offset))
            .and_then(|bytes| Ok(verify_node(bytes, self.tree, pointer)?));
        let next = match node {
            Err(error) => Next::Done(Err(error)),
            Ok(node) => {
                self.core().cache.insert(pointer, &node);
                self.step(&node)
            }
        };
        match next {
            Next::Need(pointer) => self.go_on(pointer),
            Next::Done(answer) => (self.done)(answer),
        }
    }

    fn core(&self) -> &Core {
        &self.view.core
    }

    fn step(&mut self, node: &CachedNode) -> Next {
        match self.lookup.step(node) {
            Ok(Step::Need(pointer)) => Next::Need(pointer),
            Ok(Step::Found(body)) => {
                let entry = Entry::new(&self.view, &self.key, body.as_bytes().into());
                Next::Done(Ok(Some(entry)))
            }
            Ok(Step::Absent) => Next::Done(Ok(None)),
            Err(corrupt) => Next::Done(Err(corrupt.into())),
        }
    }
}
