//! The control socket: what the text protocol lacks, for the command line on the same machine.
//!
//! A Unix socket named `control` in the data folder, mode 0600; who connects must be the node's
//! own user, or root. A frame is a little-endian u32 of its length and that many bytes of JSON.
//! The client sends one [`Request`] at a time; the node answers with any number of
//! [`Answer::Progress`] and one other [`Answer`], to a stop with two.
//!
//! Invariant: nothing here is needed to serve clients; a fault ends this one conversation.

mod client;
#[doc(hidden)]
pub mod frame;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use client::{Client, ControlError};
pub use server::Control;
pub(crate) use server::{Backing, Refusal};

use crate::statistics::Report;
use crate::storage::{BackupReport, CheckReport, StoreStatus};

/// The name of the socket in the data folder.
pub const SOCKET: &str = "control";
/// The longest frame.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// The most keys of one [`Request::Hashes`]: their hashes fit a frame.
pub const HASHES_MAX: usize = 4096;
/// A conversation that is silent for so long has lost its node: progress comes more often.
pub const SILENCE: Duration = Duration::from_secs(30);

/// What the command line asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Where the text protocol is spoken.
    Address,
    /// What the node says of itself.
    Status,
    /// Stop cleanly.
    Stop,
    /// Write a consistent copy to this new file, an absolute path.
    Backup {
        /// Where to: a path is bytes, and need not be text.
        path: Hex,
    },
    /// Verify the store.
    Check,
    /// The hash of each value of each of these keys, at most [`HASHES_MAX`].
    Hashes {
        /// The keys.
        keys: Vec<Hex>,
    },
    /// Delete these keys.
    Delete {
        /// The keys.
        keys: Vec<Hex>,
    },
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Still at it.
    Progress,
    /// It could not be done.
    Failed {
        /// Why, a sentence.
        reason: String,
        /// Whether bytes on the disk that are not what was put are the reason.
        damage: bool,
    },
    /// To [`Request::Address`].
    Address {
        /// Host and port.
        text: String,
    },
    /// To [`Request::Status`].
    Status(Box<NodeStatus>),
    /// To [`Request::Stop`]: the node stops, and one more answer says how: [`Answer::Stopped`], or
    /// [`Answer::Failed`].
    Stopping,
    /// Behind [`Answer::Stopping`]: the store has closed.
    Stopped,
    /// To [`Request::Backup`].
    Backup(BackupReport),
    /// To [`Request::Check`].
    Check(CheckReport),
    /// To [`Request::Hashes`]: for each key the hashes of its values, none for an absent one.
    Hashes {
        /// In the order of the keys.
        hashes: Vec<Vec<Hex>>,
    },
    /// To [`Request::Delete`].
    Deleted,
}

/// What a node says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name in versions, 16 hex digits.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it began to serve.
    pub uptime_seconds: u64,
    /// Where the text protocol is spoken.
    pub text_address: String,
    /// The data folder.
    pub directory: String,
    /// Copies of each value; 1.
    pub n: u32,
    /// Copies asked by a read; 1.
    pub r: u32,
    /// Copies written before a put is acknowledged; 1.
    pub w: u32,
    /// log2 of the partitions.
    pub q: u32,
    /// What it counts.
    pub statistics: Report,
    /// What the store says.
    pub store: StoreStatus,
}

/// Bytes as hex digits: keys are binary, and JSON is not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hex(pub Vec<u8>);

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = unhex(&text).ok_or_else(|| serde::de::Error::custom("not hex digits"))?;
        Ok(Self(bytes))
    }
}

/// Bytes as lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

/// Reads hex digits.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits?;
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| u8::try_from(high << 4 | low).ok())
        .collect()
}

/// The path under which the system takes the socket of a data folder. A socket's path holds 107
/// bytes: for a longer one, a descriptor of the folder stands in, which the caller keeps open.
fn socket_path(folder: &Path, name: &str) -> std::io::Result<(PathBuf, Option<std::fs::File>)> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;

    const PATH_BYTES_MAX: usize = 107;
    let path = folder.join(name);
    if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
        return Ok((path, None));
    }
    let folder = std::fs::File::open(folder)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()));
    Ok((path, Some(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_comes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("0g"), None);
        assert_eq!(unhex(""), Some(Vec::new()));
    }
}
