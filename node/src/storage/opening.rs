//! Opening the store of a data folder, or making one: new, or of a backup.
//!
//! A store is the node's once the tree `node` names it: that is written before any partition is
//! made, so a first start that was cut off is told from a foreign store, and goes on.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use engine::world::World;
use engine::{Batch, Durability, FingerprintKey, Lsn, NewEntry, Options, Store, Tree};

use super::Storage;
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

/// What the node notes for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    node: NodeId,
    q: u32,
}

/// Opens the store of a node; in a folder without one, makes it.
pub fn open(config: &Config, accept_loss: Option<u64>) -> Result<Storage, Error> {
    let path = config.directory.join(STORE);
    let options = options(config, accept_loss);
    let fault = |error| Error::store(&path, error);
    let store = match fs::symlink_metadata(&path) {
        Ok(_) => Store::open(&path, &options).map_err(fault)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(&path, options).map_err(fault)?
        }
        Err(error) => return Err(Error::folder(&config.directory, error)),
    };
    let settings = match settings(&store).map_err(fault)? {
        Some(settings) => settings,
        None if is_begun(&store) => begin(&store, config.q).map_err(fault)?,
        None => return Err(Error::foreign(&path)),
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
    Ok(Storage {
        partitions: partitions.map_err(fault)?,
        store,
        node: settings.node,
        q: settings.q,
        durability: durability(config),
    })
}

fn durability(config: &Config) -> Durability {
    if config.buffered_writes {
        Durability::Buffered
    } else {
        Durability::Durable
    }
}

fn options(config: &Config, accept_loss: Option<u64>) -> Options {
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
    let node = node.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?)));
    let q = q.and_then(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)));
    Ok(node.zip(q).map(|(node, q)| Settings {
        node: NodeId(node),
        q,
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
    };
    let tree = store.tree_or_create(NODE_TREE)?;
    let mut batch = Batch::new();
    for (key, value) in [
        (NODE_ID, &settings.node.0.to_le_bytes()[..]),
        (NODE_Q, &q.to_le_bytes()),
    ] {
        batch.put_entry(&tree, key, NewEntry::plain(value));
    }
    store.commit(batch, Durability::Durable)?;
    Ok(settings)
}

/// Makes a backup the store of a folder that has none. It is verified whole before it stands
/// there under the store's name.
pub fn restore(backup: &Path, folder: &Path) -> Result<BackupReport, Error> {
    let path = folder.join(STORE);
    let unusable = |error| Error::folder(folder, error);
    if path.symlink_metadata().is_ok() {
        return Err(Error::Setting(format!(
            "there is a store in {} already: restore into an empty folder",
            folder.display()
        )));
    }
    // What is no store is told before it is copied.
    drop(open_copy(backup, backup)?);
    let copy = Copy::make(backup, folder).map_err(unusable)?;
    let report = {
        let (store, trees) = open_copy(&copy.0, backup)?;
        let found = store
            .verify()
            .map_err(|error| Error::store(backup, error))?;
        if let Some(first) = found.violations.first() {
            return Err(Error::Setting(format!(
                "{} is damaged, and nothing was restored: {first}",
                backup.display()
            )));
        }
        let bytes = fs::metadata(&copy.0).map_err(unusable)?.len();
        backup_report(&store, &trees, bytes)?
    };
    // Linked, not renamed: a store that a node has made here meanwhile is not overwritten.
    fs::hard_link(&copy.0, &path).map_err(unusable)?;
    drop(copy);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(unusable)?;
    Ok(report)
}

/// Opens a copy of a node's store, called `name` where it fails, and its partitions.
fn open_copy(path: &Path, name: &Path) -> Result<(Store, Vec<Tree>), Error> {
    let fault = |error| Error::store(name, error);
    let store = Store::open_read_only(path, &Options::default()).map_err(fault)?;
    let settings = settings(&store).map_err(fault)?;
    let settings = settings.ok_or_else(|| Error::foreign(name))?;
    let mut trees = Vec::new();
    for partition in Partition::all(settings.q) {
        match store.tree(&partition.tree_name()) {
            Ok(tree) => trees.push(tree),
            // Of a node whose first start was cut off.
            Err(engine::Error::NoSuchTree) => {}
            Err(error) => return Err(fault(error)),
        }
    }
    Ok((store, trees))
}

/// A copy under a name of its own, gone unless it was linked under another.
struct Copy(PathBuf);

impl Copy {
    fn make(backup: &Path, folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let copy = Self(folder.join(format!("{STORE}.restoring")));
        let mut to = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&copy.0)?;
        io::copy(&mut File::open(backup)?, &mut to)?;
        to.sync_all()?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
