//! Many keys at once, and two trees side by side: what a snapshot answers beyond single keys.

use crate::entry::Entry;
use crate::error::Error;
use crate::snapshot::Snapshot;
use crate::tree::Tree;
use crate::view::{Seen, View};
use dmerkle::TreeId;
use dmerkle::diff::{self, Difference, KeyRange, Limits, Session};
use dmerkle::format::pointer::Pointer;
use dmerkle::tree::{Lookup, Step};

/// Nodes that are asked of the disk at once.
const PREFETCH_MAX: usize = 256;

/// A lookup, and the node it is at.
struct Descent<'a> {
    /// Which of the keys.
    index: usize,
    lookup: Lookup<&'a [u8]>,
    at: Pointer,
}

impl Snapshot {
    /// The values of many keys. Nodes that are not in memory are read together, level by level.
    pub fn get_many(&self, tree: &Tree, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, Error> {
        let held = self.held_for(tree)?;
        let entries = entries(&held.view, tree.id(), keys)?;
        let values = entries.into_iter().map(|entry| match entry {
            Some(entry) => entry.part(0),
            None => Ok(None),
        });
        values.collect()
    }

    /// How many entries there are.
    pub fn count(&self, tree: &Tree) -> Result<u64, Error> {
        Ok(self.fingerprint(tree, &[], None)?.count)
    }

    /// Shows `visit` every entry in which a tree differs from one of another snapshot, of this
    /// store or of one with the same fingerprint key. Costs time in what differs, not in what
    /// there is. For a peer on another machine see [`Snapshot::contents`].
    pub fn diff(
        &self,
        tree: &Tree,
        other: &Self,
        other_tree: &Tree,
        visit: impl FnMut(Difference),
    ) -> Result<(), Error> {
        let (mut mine, mut theirs) = (self.contents(tree), other.contents(other_tree));
        let mut session = Session::new(KeyRange::default(), Limits::default());
        let exchange = |frame: Vec<u8>| diff::respond(&mut theirs, &frame);
        diff::run(&mut session, &mut mine, exchange, visit).map_err(|error| match error {
            diff::Error::Contents(error) => error,
            diff::Error::Frame(corrupt) => corrupt.into(),
            diff::Error::DifferentFingerprintKey { .. } => {
                Error::BadOption("the two stores make fingerprints under different keys")
            }
            diff::Error::Peer(rule) => Error::BadOption(rule),
            diff::Error::Version { .. } | diff::Error::TooManyFrames => {
                Error::BadOption("the trees could not be compared")
            }
        })
    }
}

/// The entries of keys, in the keys' order.
fn entries(view: &View, tree: TreeId, keys: &[&[u8]]) -> Result<Vec<Option<Entry>>, Error> {
    let mut found = Vec::with_capacity(keys.len());
    let mut descents = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        found.push(match view.look(tree, key, true) {
            Seen::Entry(entry) => Some(entry),
            Seen::Below(root) if !root.pointer.is_none() => {
                descents.push(Descent {
                    index,
                    lookup: Lookup::new(*key),
                    at: root.pointer,
                });
                None
            }
            Seen::Below(_) | Seen::Absent => None,
            Seen::Overtaken => return Err(Error::SnapshotExpired),
        });
    }
    // Neighbours meet in the same nodes.
    descents.sort_by_key(|descent| keys[descent.index]);
    while !descents.is_empty() {
        let mut deeper = Vec::with_capacity(descents.len());
        for wave in descents.chunks_mut(PREFETCH_MAX) {
            let mut nodes: Vec<Pointer> = wave.iter().map(|descent| descent.at).collect();
            nodes.dedup();
            view.core.prefetch(tree, &nodes);
            for descent in wave {
                let node = view.core.node(tree, &descent.at)?;
                match descent.lookup.step(&node)? {
                    Step::Need(pointer) => deeper.push((descent.index, pointer)),
                    Step::Found(body) => {
                        let key = keys[descent.index];
                        found[descent.index] = Some(Entry::new(view, key, body.as_bytes().into()));
                    }
                    Step::Absent => {}
                }
            }
        }
        let mut deeper = deeper.into_iter().peekable();
        descents.retain_mut(|descent| {
            let next = deeper.next_if(|(index, _)| *index == descent.index);
            next.is_some_and(|(_, pointer)| {
                descent.at = pointer;
                true
            })
        });
    }
    Ok(found)
}
