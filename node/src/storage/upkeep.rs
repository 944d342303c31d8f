//! Checking the store and copying it, while it is in use.

use std::collections::HashMap;
use std::path::Path;

use engine::{Options, Store, Tree, TreeId, Violation};

use super::opening::disk_bytes;
use super::reports::{BackupReport, CheckReport, DamagedValue, FILE_REMOVED, backup_report};
use super::{Storage, StorageError, shown};
use crate::control::Hex;
use crate::hash::{Partition, TOKEN_BYTES};

/// Bytes of the sentences of one report, so that it fits a frame of the control socket.
const REPORT_BYTES_MAX: usize = 2 << 20;

impl Storage {
    /// Reads everything and verifies it against what is kept of it elsewhere.
    pub fn check(&self) -> Result<CheckReport, StorageError> {
        let since = self.damage.moment();
        let report = self.store.verify()?;
        let trees = self.store.trees();
        let names: HashMap<_, _> = trees.into_iter().map(|tree| (tree.id, tree.name)).collect();
        let mut found = CheckReport {
            // A tree that cannot be read is among the violations already.
            held: self.summary().map_or(report.entries, |sum| sum.count),
            entries: report.entries,
            newer: report.newer,
            nodes: report.nodes,
            extents: report.extents,
            bytes: report.bytes_read,
            violations_more: report.violations_more,
            ..CheckReport::default()
        };
        let mut all_named = report.violations_more == 0;
        if !all_named {
            self.damage.note_unnamed();
            self.remember_damage();
        }
        let mut bytes = 0;
        for violation in &report.violations {
            let (sentence, value) = if let Some((key, fault)) = value_of(violation, &names) {
                self.note_damage(key, &fault);
                (format!("key {}, {fault}", shown(key)), Some((key, fault)))
            } else {
                // What stands below is not known to be sound, nor to be damaged.
                all_named = false;
                let sentence = sentence_of(violation, &names);
                if self.damage.is_new(&sentence) {
                    self.notices.tell(format!("damage: {sentence}"));
                }
                (sentence, None)
            };
            bytes += 4 * sentence.len();
            if bytes > REPORT_BYTES_MAX {
                found.violations_more += 1;
                continue;
            }
            found.violations.push(sentence);
            if let Some((key, fault)) = value {
                found.damaged.push(DamagedValue {
                    key: Hex(key.to_vec()),
                    text: String::from_utf8(key.to_vec()).ok(),
                    fault,
                });
            }
        }
        if self.place.is_nameless() {
            let removed = FILE_REMOVED.to_owned();
            if self.damage.is_new(&removed) {
                self.notices.tell(removed.clone());
            }
            found.violations.push(removed);
        }
        if all_named {
            self.damage.settle(since);
            self.remember_damage();
        }
        Ok(found)
    }

    /// Writes a consistent copy to a new file, while the store is in use. What it tells is read
    /// from the copy.
    pub fn backup(&self, to: &Path) -> Result<BackupReport, StorageError> {
        self.store
            .backup(to)
            .map_err(|error| self.no_backup(to, &error))?;
        let copy = Store::open_read_only(to, &Options::default())?;
        let trees: Vec<Tree> = Partition::all(self.q)
            .map(|partition| copy.tree(&partition.tree_name()))
            .collect::<Result<_, _>>()?;
        backup_report(&copy, &trees, disk_bytes(to))
    }

    fn no_backup(&self, to: &Path, error: &engine::Error) -> StorageError {
        let damage = error.is_damage();
        let why = match error {
            engine::Error::Damaged {
                tree,
                key: Some(key),
                source,
            } => match client_key(tree, key) {
                Some(key) => {
                    self.note_damage(key, &source.to_string());
                    format!(
                        "in the tree {} the value of {} is not what was put ({source}); put it \
                         again, load its folder again, or delete it: `dynomite check` names all \
                         such keys",
                        tree.escape_ascii(),
                        shown(key)
                    )
                }
                None => error.to_string(),
            },
            engine::Error::Damaged { .. } => {
                format!("{error}; what is beside it can still be read key by key")
            }
            engine::Error::Locked => "another backup to it is under way".to_owned(),
            engine::Error::DiskFull => "no space is left for it on its disk".to_owned(),
            _ => error.to_string(),
        };
        let to = to.to_owned();
        StorageError::Backup { to, why, damage }
    }
}

/// A violation as a sentence, with its tree's name where it has one.
fn sentence_of(violation: &Violation, names: &HashMap<TreeId, Vec<u8>>) -> String {
    let sentence = violation.to_string();
    let tree = match violation {
        Violation::Tree(violation) => violation.tree,
        Violation::Part { tree, .. } => *tree,
        _ => return sentence,
    };
    let rest = sentence.strip_prefix(&format!("tree {tree}"));
    match names.get(&tree).zip(rest) {
        Some((name, rest)) => format!("tree {}{rest}", name.escape_ascii()),
        None => sentence,
    }
}

/// The client's key of a damaged value, and what is wrong with it; `None` of other violations.
fn value_of<'a>(
    violation: &'a Violation,
    names: &HashMap<TreeId, Vec<u8>>,
) -> Option<(&'a [u8], String)> {
    let Violation::Part {
        tree,
        key,
        run,
        fault,
    } = violation
    else {
        return None;
    };
    let key = client_key(names.get(tree)?, key)?;
    let (first, last) = (run.start, run.end() - 1);
    Some((
        key,
        format!("its value, in units {first} to {last}: {fault}"),
    ))
}

/// The client's key of one in a partition's tree.
pub(crate) fn client_key<'a>(tree: &[u8], key: &'a [u8]) -> Option<&'a [u8]> {
    let is_partition = tree.starts_with(b"storage_");
    is_partition.then(|| key.get(TOKEN_BYTES..)).flatten()
}
