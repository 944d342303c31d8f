//! Where the store's file is while the node has it open: it may be moved, and it may be removed.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// `O_PATH` of Linux, the same on every machine that the node runs on: the descriptor names the file
/// and does nothing else, so no lock depends on it.
const O_PATH: i32 = 0o10_000_000;

/// A file that is known by a descriptor, and not by the name that it had.
pub(super) struct Place(Option<File>);

impl Place {
    /// The file that stands at `path` now. Of one that cannot be had, nothing is known.
    pub(super) fn of(path: &Path) -> Self {
        let mut options = OpenOptions::new();
        Self(options.read(true).custom_flags(O_PATH).open(path).ok())
    }

    /// Whether no folder names the file any more: it goes with who has it open.
    pub(super) fn is_nameless(&self) -> bool {
        let metadata = self.0.as_ref().and_then(|file| file.metadata().ok());
        metadata.is_some_and(|metadata| metadata.nlink() == 0)
    }

    /// The folder that the file is in.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        let file = self.0.as_ref().filter(|_| !self.is_nameless())?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = std::fs::read_link(link).ok()?;
        let folder = path.is_absolute().then(|| path.parent()).flatten();
        folder.map(Path::to_owned)
    }
}
