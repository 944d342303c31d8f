//! What keeps a node from starting or going on: each a sentence that names the thing and the way
//! out.

use std::io;
use std::path::PathBuf;

use crate::storage::StorageError;

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
    /// The store says no.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Error {
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
