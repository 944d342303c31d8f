//! Dropped trees: hidden by the checkpoint that carries the drop, emptied a little by each one behind
//! it, and given up where they are damaged.
//!
//! Invariants:
//! - A tree is given up only if no name leads to it any more: nobody misses what it holds.
//! - What is pending of it is let go once, by the checkpoint of the last memtable that names it, and
//!   only behind a flush of the drop: no crash finds the tree without what was acknowledged.
//! - What the base reaches of it stays taken, or goes with its entry.

use super::ops::{Bytes, Ops};
use super::{Checkpointer, Running};
use crate::core::Core;
use crate::error::Error;
use crate::memtable::{Memtable, Place};
use dmerkle::tree::{Change, Op as TreeOp, Root};
use dmerkle::{Run, TreeId};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

/// Entries of a dropped tree that one checkpoint removes.
const TRUNCATE_ENTRIES: usize = 4096;

impl Checkpointer {
    /// Whether dropped trees still have entries that can be removed, as far as is known.
    pub(crate) fn has_hidden(&self) -> bool {
        let mut hidden = self.catalog.iter().filter(|(_, entry)| entry.dropped);
        hidden.any(|(tree, _)| !self.given_up.contains(tree))
    }

    /// The tree that is being applied to, if it was dropped.
    pub(super) fn dropped_one(&self, core: &Core) -> Option<TreeId> {
        let (tree, _) = self.running.as_ref()?.applying.as_ref()?;
        let gone = *tree != TreeId::CATALOG && core.directory.name_of(*tree).is_none();
        gone.then_some(*tree)
    }

    /// If operations are pending of a tree that is given up: the runs of all that is superseded, and
    /// theirs, less what the base reaches (that is retired where its entry goes, or stays taken) and
    /// what later operations have kept (that is let go with them).
    pub(super) fn let_go(
        &self,
        core: &Arc<Core>,
        table: &Memtable,
    ) -> Result<Option<Vec<Run>>, Error> {
        if self.given_up.is_empty() {
            return Ok(None);
        }
        let geometry = &core.identity.geometry;
        let gone = |place: &Place| self.given_up.contains(&table.key(*place).tree);
        let mut places = table.places().filter(gone).peekable();
        if places.peek().is_none() {
            return Ok(None);
        }
        // The drop may be newer than the memtable, and no crash may find the tree without them.
        let changed = {
            // Under it a change is made and noted.
            let _queue = core.queue.lock();
            core.directory.last_change()
        };
        core.flush_log_to(changed)?;
        let named = |table: &Memtable, place| {
            let runs = table.versions(place).flat_map(|op| op.runs(geometry));
            runs.collect::<Vec<_>>()
        };
        let mut runs = table.superseded();
        runs.extend(places.flat_map(|place| named(table, place)));
        // Nothing of a dropped tree joins any more.
        let state = core.state.load();
        let mut kept: HashSet<Run> = state.active.superseded().into_iter().collect();
        let newer = state.active.places();
        let newer = newer.filter(|place| self.given_up.contains(&state.active.key(*place).tree));
        kept.extend(newer.flat_map(|place| named(&state.active, place)));
        let mut left = Vec::new();
        for run in runs {
            if !kept.contains(&run) && !core.space.is_reached(core.disk.as_ref(), run)? {
                left.push(run);
            }
        }
        Ok(Some(left))
    }
}

impl Running {
    /// Chooses what to remove from trees that earlier checkpoints hid.
    pub(super) fn choose_truncations(
        &mut self,
        core: &Arc<Core>,
        given_up: &mut BTreeSet<TreeId>,
    ) -> Result<(), Error> {
        let mut left = TRUNCATE_ENTRIES;
        let hidden: Vec<TreeId> = self
            .catalog
            .iter()
            .filter(|(tree, entry)| entry.dropped && !given_up.contains(tree))
            .map(|(tree, _)| *tree)
            .collect();
        for tree in hidden {
            let root = self.trees.get(&tree).copied().unwrap_or(Root::EMPTY);
            let keys = match core.first_keys(tree, &root, left) {
                Err(error) if error.is_damage() => {
                    given_up.insert(tree);
                    continue;
                }
                keys => keys?,
            };
            left -= keys.len();
            if !keys.is_empty() {
                let ops: Vec<_> = keys.into_iter().map(delete_op).collect();
                self.todo.push_back((tree, Ops::Listed(ops.into_iter())));
            }
            if left == 0 {
                break;
            }
        }
        Ok(())
    }
}

pub(super) fn delete_op(key: Vec<u8>) -> TreeOp<Bytes, Bytes> {
    TreeOp {
        key: Bytes::Own(key),
        change: Change::Delete,
        fingerprint: None,
    }
}
