//! What can go wrong, each with the sentence that says what to do.

use dmerkle::{Corrupt, Lsn, Structure};
use std::fmt;
use std::io;
use std::sync::Arc;

/// An operation of the store that did not happen, and why.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Error {
    /// The system refused a read or write of the store's file.
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not what they must be.
    Corrupt(Corrupt),
    /// What a tree holds cannot be read, or is not what was written.
    Damaged {
        /// The tree.
        tree: Vec<u8>,
        /// The key of the entry; none where a node of the tree is damaged.
        key: Option<Vec<u8>>,
        /// What was found.
        source: Arc<Error>,
    },
    /// The log holds acknowledged commits that cannot be read any more.
    AcknowledgedLoss {
        /// Where the damage begins.
        at: Lsn,
        /// Everything below this was acknowledged as durable.
        durable: Lsn,
    },
    /// The file is not a Dynomite store.
    NotAStore(&'static str),
    /// The store was made by a newer (or by the unreleased) version of the format.
    FormatVersion {
        /// The file's version.
        found: u32,
    },
    /// The newer superblock is gone, and the older one is not safe to open.
    SuperblockLost,
    /// The store is open already, in this process or another; see [`Store::close`](crate::Store::close)
    /// for what keeps it so.
    Locked,
    /// There is a store (or another file) where one should be created.
    Exists,
    /// No tree of this name.
    NoSuchTree,
    /// A tree of this name is there.
    TreeExists,
    /// A key, meta, part, name or count over its limit.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// A batch's records take more than a quarter of the log ring.
    BatchTooLarge {
        /// Bytes of its records, as far as they were looked at.
        bytes: u64,
        /// The most that the ring takes.
        limit: u64,
    },
    /// The disk has no space for this write. Nothing else is affected.
    DiskFull,
    /// The store has as many regions as its table has room for.
    StoreFull,
    /// A write or flush failed before; the store takes no more writes until it is reopened.
    Poisoned {
        /// What failed, and how.
        cause: Arc<str>,
        /// Buffered commits above this LSN may be lost.
        durable: Lsn,
    },
    /// The store was opened for reading only.
    ReadOnly,
    /// The store was closed.
    Closed,
    /// The snapshot was held longer, or pinned more, than the options allow.
    SnapshotExpired,
    /// The condition of a `put_if` does not hold.
    ConditionFailed,
    /// A copy was made and its fingerprint is not the original's.
    CopyDiffers {
        /// The tree whose copy differs.
        tree: Vec<u8>,
    },
    /// The options do not fit each other or the machine.
    BadOption(&'static str),
}

impl Error {
    /// An I/O error with what was being done.
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            source: Arc::new(source),
        }
    }

    /// The engine's error in one that a [`Reader`](crate::Reader) has given.
    pub fn of_reader(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
        match inner {
            Some(inner) => Self::clone(inner),
            None => Self::io("reading a part")(error),
        }
    }

    /// Whether an allocation map is damaged: nothing can be written where it stands for, and what is
    /// stored can be read all the same.
    pub fn is_map_damage(&self) -> bool {
        matches!(self, Self::Corrupt(corrupt) if corrupt.structure == Structure::Map)
    }

    /// Whether bytes of the disk are not what was written, or cannot be read: something that a
    /// later try will not mend.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) | Self::Damaged { .. } => true,
            // What file systems and drivers say of a medium that does not give its bytes. What cannot
            // be written is another matter.
            Self::Io { doing, source } if doing.starts_with("reading") => {
                source.kind() == io::ErrorKind::UnexpectedEof
                    || [
                        libc::EIO,
                        libc::ENODATA,
                        libc::EILSEQ,
                        libc::EBADMSG,
                        libc::EUCLEAN,
                    ]
                    .map(Some)
                    .contains(&os_code(source))
            }
            _ => false,
        }
    }
}

impl Error {
    /// An error of reading a block, which names the block.
    pub(crate) fn reading(what: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::io(what)(io::Error::new(source.kind(), AtByte { offset, source }))
    }
}

/// An I/O error and where it was met. It keeps the system's code, which tells damage.
#[derive(Debug)]
struct AtByte {
    offset: u64,
    source: io::Error,
}

impl fmt::Display for AtByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.source)
    }
}

impl std::error::Error for AtByte {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The system's code of an error, also of one that names its place.
fn os_code(error: &io::Error) -> Option<i32> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(AtByte { source, .. }) => source.raw_os_error(),
        None => error.raw_os_error(),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { doing, source } => write!(f, "{doing}: {source}"),
            Self::Corrupt(corrupt) => corrupt.fmt(f),
            Self::Damaged { tree, key, source } => {
                write!(f, "tree \"{}\"", tree.escape_ascii())?;
                if let Some(key) = key {
                    write!(f, ", key \"{}\"", key.escape_ascii())?;
                }
                write!(f, ": {source}")
            }
            Self::AcknowledgedLoss { at, durable } => write!(
                f,
                "the log is damaged at LSN {at}, below the acknowledged LSN {durable}: acknowledged \
                 commits from there on cannot be read; restore a backup, or accept the loss of \
                 everything from LSN {at}"
            ),
            Self::NotAStore(why) => write!(f, "not a Dynomite store: {why}"),
            Self::FormatVersion { found } => write!(
                f,
                "the store has format version {found}, this program reads version {}; open it \
                 with the version that made it",
                dmerkle::format::superblock::VERSION
            ),
            Self::SuperblockLost => f.write_str(
                "the newer superblock is damaged and the log shows that space of the older one was \
                 reused; restore from a backup",
            ),
            Self::Locked => f.write_str(
                "the store is open already, in this process or another: close it and drop every \
                     handle of it, or stop the other process",
            ),
            Self::Exists => f.write_str("there is already a file at this place"),
            Self::NoSuchTree => f.write_str("no tree of this name"),
            Self::TreeExists => f.write_str("a tree of this name exists"),
            Self::TooLarge { what, size, limit } => {
                write!(f, "{what} is {size}, the limit is {limit}")
            }
            Self::BatchTooLarge { bytes, limit } => write!(
                f,
                "the batch's records take {bytes} bytes or more, the log ring allows {limit}; split the \
                 batch, or put the entries into a new store with a larger log"
            ),
            Self::DiskFull => f.write_str("no space left on the disk; nothing was written"),
            Self::StoreFull => f.write_str("the store is as large as its format allows"),
            Self::Poisoned { cause, durable } => write!(
                f,
                "the store takes no writes since {cause}; everything up to LSN {durable} is durable, \
                 buffered commits above it may be lost; reopen the store"
            ),
            Self::ReadOnly => f.write_str("the store is open for reading only"),
            Self::Closed => f.write_str("the store is closed"),
            Self::SnapshotExpired => f.write_str("the snapshot has expired; take a new one"),
            Self::ConditionFailed => f.write_str("the entry is not as the condition says"),
            Self::CopyDiffers { tree } => write!(
                f,
                "the copy of the tree \"{}\" differs from the original and was thrown away; verify \
                 the store",
                tree.escape_ascii()
            ),
            Self::BadOption(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source.as_ref()),
            Self::Corrupt(corrupt) => Some(corrupt),
            Self::Damaged { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

impl From<Corrupt> for Error {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place was put beside the error, and the code, by which damage is known, was lost.
    #[test]
    fn a_block_that_the_disk_does_not_give_is_damage_wherever_it_is_named() {
        for code in [libc::EIO, libc::ENODATA, libc::EBADMSG] {
            let error = || io::Error::from_raw_os_error(code);
            let named = Error::reading("reading a tree node", 4096)(error());
            assert!(named.is_damage(), "{named}");
            assert!(named.to_string().contains("at byte 4096: "), "{named}");
            let streamed = Error::of_reader(io::Error::other(named));
            assert!(streamed.is_damage(), "{streamed}");
            assert!(Error::io("reading an extent")(error()).is_damage());
            assert!(!Error::io("writing an extent")(error()).is_damage());
        }
        let many = io::Error::from_raw_os_error(libc::EMFILE);
        assert!(!Error::reading("reading a tree node", 4096)(many).is_damage());
    }
}
