//! Files that get their name only when they are whole.
//!
//! Invariants: until [`Unfinished::name`] there is no file of the wanted name because of this, and
//! a crash leaves at most the unfinished one, which the next claim removes; a file that another
//! process has given the name meanwhile is never replaced; an unfinished file at which somebody
//! works (it is locked then) is never removed.

use crate::error::Error;
use crate::io::{Disk, FileDisk, OpenError};
use crate::store::open_error;
use dmerkle::format::superblock::{SUPERBLOCK_BYTES, has_magic};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The place of a file that is not whole yet; what was made there is removed when this is dropped.
pub(crate) struct Unfinished {
    path: PathBuf,
    /// Whether what stands there is ours: two may have claimed the place, and one made the file.
    made: bool,
}

impl Unfinished {
    /// Takes the place beside `path`, if nothing has that name yet.
    pub(crate) fn claim(path: &Path, doing: &'static str) -> Result<Self, Error> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::Exists);
        }
        let unfinished = beside(path);
        match FileDisk::open(&unfinished) {
            Ok(left_behind) if is_ours(&left_behind) => {
                fs::remove_file(&unfinished).map_err(Error::io(doing))?;
            }
            Ok(_somebodys) => return Err(Error::Exists),
            Err(OpenError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(open_error(error, doing)),
        }
        Ok(Self {
            path: unfinished,
            made: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file was made here, and nobody else has made one.
    pub(crate) fn made(&mut self) {
        self.made = true;
    }

    /// Gives the file its name, durably, unless another file has it by now.
    pub(crate) fn name(self, path: &Path, doing: &'static str) -> Result<(), Error> {
        match fs::hard_link(&self.path, path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::Exists);
            }
            // A file system without links. There the look at the beginning has to do.
            Err(_) => fs::rename(&self.path, path).map_err(Error::io(doing))?,
        }
        drop(self);
        sync_folder(path).map_err(Error::io(doing))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        // Nothing to be done about an error here, and after a rename there is no such file.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_file(beside(&self.path));
    }
}

/// Whether a file may be what a creation left: nothing, zeros, or the beginning of a store.
fn is_ours(file: &FileDisk) -> bool {
    let mut head = [0; SUPERBLOCK_BYTES];
    match file.read(0, &mut head) {
        Ok(()) => has_magic(&head) || head.iter().all(|&byte| byte == 0),
        Err(_) => file.size().is_ok_and(|size| size == 0),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

/// Brings a file's name down to the medium.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::store::Store;

    /// Whoever came too late took the file of the first along.
    #[test]
    fn of_two_who_claim_a_place_at_once_one_makes_its_file_in_peace() {
        let folder = tempfile::TempDir::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = folder.path().join("store");
        let mut first = Unfinished::claim(&path, "").unwrap();
        let late = Unfinished::claim(&path, "").unwrap();
        let file = FileDisk::create(first.path()).unwrap();
        first.made();
        assert!(FileDisk::create(late.path()).is_err());
        drop(late);
        first.name(&path, "").unwrap();
        assert!(path.exists() && !beside(&path).exists());
        drop(file);

        // As long as a copy is made, nobody else's copy at its place begins, or ends it.
        let options = Options {
            log_bytes: 1 << 20,
            ..Options::default()
        };
        let store = Store::create(folder.path().join("original"), &options).unwrap();
        let path = folder.path().join("copy");
        let mut first = Unfinished::claim(&path, "").unwrap();
        let mut late = Unfinished::claim(&path, "").unwrap();
        let file = FileDisk::create(first.path()).unwrap();
        first.made();
        assert!(store.copy_to(&mut late).is_err());
        drop(late);
        first.name(&path, "").unwrap();
        drop(file);
    }
}
