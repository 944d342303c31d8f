//! What keeps a node from starting or going on: each a sentence that names the thing and the way
//! out.

use std::io;
use std::path::{Path, PathBuf};

use engine::Error as EngineError;

use crate::storage::{StorageError, client_key, shown};

/// Why a node cannot start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be used.
    #[error("cannot use the configuration file {}: {reason}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A setting has a value that this node cannot serve.
    #[error("{0}")]
    Setting(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}{hint}")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
        /// The way out, where there is one.
        hint: &'static str,
    },
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {source}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The store's file cannot be opened.
    #[error("cannot open the store {}: {source}{hint}", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What the engine says.
        source: EngineError,
        /// The way out, where the engine's sentence does not name it.
        hint: String,
    },
    /// A backup cannot be restored.
    #[error("cannot restore {}, and nothing was: {reason}", .path.display())]
    Backup {
        /// The backup.
        path: PathBuf,
        /// Why, and the way out.
        reason: String,
        /// Whether damage is the reason.
        damage: bool,
    },
    /// What a backup holds cannot be written.
    #[error("cannot write {}, and nothing was restored: {source}", .path.display())]
    Restore {
        /// The new store.
        path: PathBuf,
        /// What the engine says.
        source: EngineError,
    },
    /// The store, once open, says no.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl Error {
    /// Whether bytes on the disk are not what was written.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Backup { damage, .. } => *damage,
            Self::Storage(error) => error.is_damage(),
            _ => false,
        }
    }

    /// A backup that cannot be read, or not to its end.
    pub(crate) fn backup(path: &Path, error: &EngineError) -> Self {
        // Of a file that was a store the engine says so with this word.
        let headless = matches!(error, EngineError::NotAStore(why) if why.contains("damaged"));
        let damage = error.is_damage()
            || headless
            || matches!(
                error,
                EngineError::SuperblockLost | EngineError::AcknowledgedLoss { .. }
            );
        let reason = match error {
            EngineError::Damaged { tree, key, source } => {
                let what = match key {
                    Some(key) => {
                        let key = client_key(tree, key).unwrap_or(key);
                        format!("the value of {}", shown(key))
                    }
                    None => format!("the tree {}", tree.escape_ascii()),
                };
                format!("{what} in it is damaged ({source}); take another backup")
            }
            EngineError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                "it is shorter than its store, somebody has cut it off; take another backup".into()
            }
            EngineError::AcknowledgedLoss { at, .. } => {
                format!("its log is damaged at LSN {at}; take another backup")
            }
            EngineError::SuperblockLost => {
                "its newer superblock is damaged; take another backup".into()
            }
            EngineError::Locked => "another process is using it".into(),
            _ if damage => format!("it is damaged ({error}); take another backup"),
            _ => error.to_string(),
        };
        Self::Backup {
            path: path.to_owned(),
            reason,
            damage,
        }
    }

    /// A folder that the system does not let us use.
    pub(crate) fn folder(path: &Path, source: io::Error) -> Self {
        Self::Folder {
            path: path.to_owned(),
            source,
        }
    }

    /// A store that some other program of the engine's users has made.
    pub(crate) fn foreign(path: &Path) -> Self {
        Self::Setting(format!(
            "{} is a Dynomite store, but no node's: take another data folder",
            path.display()
        ))
    }

    /// A store that the engine does not open.
    pub(crate) fn store(path: &Path, source: EngineError) -> Self {
        let hint = match &source {
            EngineError::NotAStore(_) => {
                "; move the file away, or take another data folder with --data".to_owned()
            }
            EngineError::Corrupt(_) => "; restore a backup".to_owned(),
            EngineError::AcknowledgedLoss { at, .. } => {
                let folder = path.parent().unwrap_or(path);
                format!(
                    ": `dynomite start --data {} --accept-loss {}`",
                    quoted(&folder.to_string_lossy()),
                    at.0
                )
            }
            EngineError::DiskFull => "; give the disk room".to_owned(),
            EngineError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "; the node needs to read and write it".to_owned()
                }
                io::ErrorKind::UnexpectedEof => {
                    "; the file is shorter than its store, somebody has cut it off: restore a \
                     backup"
                        .to_owned()
                }
                io::ErrorKind::StorageFull => "; give the disk room".to_owned(),
                _ => String::new(),
            },
            _ => String::new(),
        };
        Self::Store {
            path: path.to_owned(),
            source,
            hint,
        }
    }

    /// A store that cannot be made: most of what it takes at first is its log.
    pub(crate) fn new_store(path: &Path, source: EngineError, log_size: u64) -> Self {
        let full = match &source {
            EngineError::DiskFull => true,
            EngineError::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        };
        if !full {
            return Self::store(path, source);
        }
        let hint = format!(
            "; give the disk room: the log takes {log_size} bytes ({} MiB) of it, and `log_size` in \
             the configuration makes that of a new store smaller",
            log_size >> 20
        );
        Self::Store {
            path: path.to_owned(),
            source,
            hint,
        }
    }

    /// The control socket cannot take its place in the data folder.
    pub(crate) fn control(path: &Path, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "; the node needs to write in its data folder"
            }
            io::ErrorKind::StorageFull => "; give the disk room",
            _ => "",
        };
        Self::Listen {
            address: path.display().to_string(),
            source,
            hint,
        }
    }

    /// An address that the system does not give.
    pub fn listen(address: &(impl ToString + ?Sized), source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program listens there: choose another with --text-port, or 0 for any"
            }
            io::ErrorKind::PermissionDenied => "; choose a port above 1023 with --text-port",
            _ => "",
        };
        Self::Listen {
            address: address.to_string(),
            source,
            hint,
        }
    }
}
