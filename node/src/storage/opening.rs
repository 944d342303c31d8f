//! Opening the store of a data folder, or making one: new, or of a backup.
//!
//! A store is the node's once the tree `node` names it: that is written before any partition is
//! made, so a first start that was cut off is told from a foreign store, and goes on.
//!
//! A backup is a store with an id of its own, and the node's name in it is the original's. Two nodes
//! of one name would make dots twice, so the first start on a copy draws a new name; the old one is
//! kept among those that the node knows, and contexts that name it stay good.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use engine::world::World;
use engine::{Batch, Durability, FingerprintKey, Lsn, NewEntry, Options, Store, Tree};
use parking_lot::Mutex;

use super::Storage;
use super::damage::{Damage, Notices};
use super::place::Place;
use super::reports::{BackupReport, backup_report};
use crate::config::Config;
use crate::error::Error;
use crate::hash::Partition;
use crate::version::NodeId;

/// The store's file in the data folder.
pub const STORE: &str = "store";

/// The tree with what the node notes for itself.
const NODE_TREE: &[u8] = b"node";
/// In it: the node's name, 8 bytes, little-endian.
const NODE_ID: &[u8] = b"id";
/// In it: log2 of the partitions, 4 bytes, little-endian.
const NODE_Q: &[u8] = b"q";
/// In it: the id of the store that the name was drawn for, 16 bytes.
const NODE_STORE: &[u8] = b"store";
/// In it: the names that the node had before, 8 bytes each, little-endian.
const NODE_EARLIER: &[u8] = b"earlier";
/// In it: there, and empty, while damage is known; see [`Storage::note_damage`].
const NODE_DAMAGED: &[u8] = b"damaged";

/// What lies in a folder that is empty in every way that counts for a restore: what a node that is
/// gone has left there beside its store, and what a restore that was cut off has.
const EMPTY_FOLDER: [&str; 6] = [
    "control",
    "control.new",
    "dynomite.log",
    "lost+found",
    "store.unfinished",
    "store.unfinished.unfinished",
];

/// What the node notes for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Settings {
    node: NodeId,
    q: u32,
    /// None in a store of before this was noted.
    store: Option<[u8; 16]>,
    earlier: Vec<NodeId>,
    /// Whether damage was known when the node was last there.
    damaged: bool,
}

/// Opens the store of a node; in a folder without one, makes it.
pub fn open(config: &Config, accept_loss: Option<u64>) -> Result<Storage, Error> {
    let path = config.directory.join(STORE);
    let options = options(config, accept_loss);
    let fault = |error| Error::store(&path, error);
    let store = match fs::symlink_metadata(&path) {
        Ok(_) => Store::open(&path, &options).map_err(fault)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path, options)
            .map_err(|error| Error::new_store(&path, error, config.log_size))?,
        Err(error) => return Err(Error::folder(&config.directory, error)),
    };
    of(store, config, &path)
}

/// The storage of the store that was opened at `path`.
pub(super) fn of(store: Store, config: &Config, path: &Path) -> Result<Storage, Error> {
    let fault = |error| Error::store(path, error);
    let notices = Notices::default();
    for line in store.mended() {
        notices.tell(format!("{}: {line}", path.display()));
    }
    let settings = match settings(&store).map_err(fault)? {
        Some(settings) if settings.store == Some(store.id()) => settings,
        Some(copied) => {
            // Where it is not known for whom the name was drawn, there may be another of that name.
            let is = if copied.store.is_some() {
                "is"
            } else {
                "may be"
            };
            let settings = name_anew(&store, copied).map_err(fault)?;
            notices.tell(format!(
                "the store {is} a copy of node {}'s: this node is called {}",
                settings.earlier.last().unwrap_or(&settings.node),
                settings.node
            ));
            settings
        }
        None if is_begun(&store) => begin(&store, config.q).map_err(fault)?,
        None => return Err(Error::foreign(path)),
    };
    if settings.q != config.q {
        return Err(Error::Setting(format!(
            "{} was made with q = {}, and q = {} is asked for: a store keeps its number of \
             partitions; set q = {} in the configuration, or take another data folder",
            path.display(),
            settings.q,
            config.q,
            settings.q
        )));
    }
    let partitions: Result<Vec<Tree>, _> = Partition::all(settings.q)
        .map(|partition| store.tree_or_create(&partition.tree_name()))
        .collect();
    let damage = if settings.damaged {
        notices.tell(
            "the store was known to be damaged when its node ended: until a `dynomite check`, each \
             value is read before its hash is given"
                .to_owned(),
        );
        Damage::unnamed()
    } else {
        Damage::default()
    };
    Ok(Storage {
        partitions: partitions.map_err(fault)?,
        own: store.tree(NODE_TREE).map_err(fault)?,
        store,
        node: settings.node,
        q: settings.q,
        earlier: settings.earlier,
        durability: durability(config),
        damage,
        damage_noted: Mutex::new(settings.damaged),
        notices,
        place: Place::of(path),
    })
}

fn durability(config: &Config) -> Durability {
    if config.buffered_writes {
        Durability::Buffered
    } else {
        Durability::Durable
    }
}

pub(super) fn options(config: &Config, accept_loss: Option<u64>) -> Options {
    Options {
        cache_bytes: config.cache_size,
        memtable_bytes: config.memtable_size,
        log_bytes: config.log_size,
        durability: durability(config),
        accept_loss: accept_loss.map(Lsn),
        ..Options::default()
    }
}

/// A new store. Its fingerprint key is a secret of its own: who chooses values cannot make two
/// stores look equal that are not.
fn create(path: &Path, mut options: Options) -> Result<Store, engine::Error> {
    let mut key = [0; 32];
    World::real().entropy.fill(&mut key);
    options.fingerprint_key = FingerprintKey(key);
    Store::create(path, &options)
}

/// Reads what the node has noted; `None` where it has noted nothing.
fn settings(store: &Store) -> Result<Option<Settings>, engine::Error> {
    let tree = match store.tree(NODE_TREE) {
        Err(engine::Error::NoSuchTree) => return Ok(None),
        found => found?,
    };
    let (node, q) = (tree.get(NODE_ID)?, tree.get(NODE_Q)?);
    let damaged = tree.has(NODE_DAMAGED)?;
    let store = tree.get(NODE_STORE)?;
    let store = store.and_then(|bytes| bytes.try_into().ok());
    let earlier = tree.get(NODE_EARLIER)?.unwrap_or_default();
    let (earlier, _) = earlier.as_chunks::<8>();
    let earlier = earlier.iter().map(|id| NodeId(u64::from_le_bytes(*id)));
    let node = node.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    let q = q.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    Ok(node.zip(q).map(|(node, q)| Settings {
        node: NodeId(node),
        q,
        store,
        earlier: earlier.collect(),
        damaged,
    }))
}

/// Whether the store is as a first start leaves it that was cut off.
fn is_begun(store: &Store) -> bool {
    store.trees().iter().all(|tree| tree.name == NODE_TREE)
}

/// Gives a new store its node.
fn begin(store: &Store, q: u32) -> Result<Settings, engine::Error> {
    let settings = Settings {
        node: NodeId(World::real().random()),
        q,
        store: Some(store.id()),
        earlier: Vec::new(),
        damaged: false,
    };
    note(store, &settings)?;
    Ok(settings)
}

/// Gives the copy of a node's store a node of its own. Whoever copied it has read and verified all.
fn name_anew(store: &Store, copied: Settings) -> Result<Settings, engine::Error> {
    let mut settings = Settings {
        node: NodeId(World::real().random()),
        store: Some(store.id()),
        damaged: false,
        ..copied
    };
    settings.earlier.push(copied.node);
    note(store, &settings)?;
    Ok(settings)
}

fn note(store: &Store, settings: &Settings) -> Result<(), engine::Error> {
    let earlier: Vec<u8> = settings
        .earlier
        .iter()
        .flat_map(|node| node.0.to_le_bytes())
        .collect();
    let tree = store.tree_or_create(NODE_TREE)?;
    let mut batch = Batch::new();
    for (key, value) in [
        (NODE_ID, &settings.node.0.to_le_bytes()[..]),
        (NODE_Q, &settings.q.to_le_bytes()),
        (NODE_STORE, &store.id()),
        (NODE_EARLIER, &earlier),
    ] {
        batch.put_entry(&tree, key, NewEntry::plain(value));
    }
    put_damaged(&mut batch, &tree, settings.damaged);
    store.commit(batch, Durability::Durable)?;
    Ok(())
}

/// What notes that damage is known, or that none is.
pub(super) fn put_damaged(batch: &mut Batch, own: &Tree, damaged: bool) {
    if damaged {
        batch.put(own, NODE_DAMAGED, b"");
    } else {
        batch.delete(own, NODE_DAMAGED);
    }
}

/// Makes a backup the store of a folder that has none. What it holds is read, verified and written
/// anew, and stands there under the store's name once it is whole.
pub fn restore(backup: &Path, folder: &Path) -> Result<BackupReport, Error> {
    refuse_what_is_in_the_way(folder)?;
    let of_backup = |error: engine::Error| Error::backup(backup, &error);
    let (store, _) = open_copy(backup).map_err(of_backup)?.ok_or_else(|| {
        Error::Setting(format!(
            "{} is a Dynomite store, but not the backup of a node",
            backup.display()
        ))
    })?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| Error::folder(folder, error))?;
    let path = folder.join(STORE);
    // A copy of the copy: what is read was verified, and the new file holds nothing else.
    store.backup(&path).map_err(|error| match error {
        error if error.is_damage() => of_backup(error),
        engine::Error::Exists => Error::Setting(format!(
            "something stands at {0}, or at {0}.unfinished: restore into an empty folder",
            path.display()
        )),
        error => Error::Restore {
            path: path.clone(),
            source: error,
        },
    })?;
    let of_store = |error| Error::store(&path, error);
    let (copy, trees) = open_copy(&path)
        .map_err(of_store)?
        .ok_or_else(|| Error::foreign(&path))?;
    Ok(backup_report(&copy, &trees, disk_bytes(&path))?)
}

/// A restore touches nothing that is there.
fn refuse_what_is_in_the_way(folder: &Path) -> Result<(), Error> {
    const NAMED_MAX: usize = 3;
    let unusable = |error| Error::folder(folder, error);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(unusable)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(unusable)?.file_name());
    }
    if names.iter().any(|name| name == STORE) {
        return Err(Error::Setting(format!(
            "there is a store in {} already: restore into an empty folder",
            folder.display()
        )));
    }
    names.retain(|name| EMPTY_FOLDER.iter().all(|left| name != left));
    names.sort();
    if names.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = names
        .iter()
        .take(NAMED_MAX)
        .map(|name| name.display().to_string())
        .collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    Err(Error::Setting(format!(
        "{} is not empty, it holds {}{more}: restore into an empty folder",
        folder.display(),
        named.join(", ")
    )))
}

/// Opens a copy of a node's store, and its partitions; `None` where it is no node's.
fn open_copy(path: &Path) -> Result<Option<(Store, Vec<Tree>)>, engine::Error> {
    let store = Store::open_read_only(path, &Options::default())?;
    let Some(settings) = settings(&store)? else {
        return Ok(None);
    };
    let mut trees = Vec::new();
    for partition in Partition::all(settings.q) {
        match store.tree(&partition.tree_name()) {
            Ok(tree) => trees.push(tree),
            // Of a node whose first start was cut off.
            Err(engine::Error::NoSuchTree) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some((store, trees)))
}

/// Bytes of the disk that a file takes: its log's place may be a hole.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}
