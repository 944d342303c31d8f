//! Values in files: read from a file or from standard input; a file is written whole or not at
//! all, and what is no file (a device, a pipe) is written into, never replaced.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use node::client::ClientError;
use node::text::VALUE_BYTES_MAX;
use tempfile::NamedTempFile;

use crate::outcome::{Code, Failure, Naming, output};

/// A value with its length, ready to be sent.
pub struct Source {
    pub reader: Box<dyn Read>,
    pub length: u64,
    name: String,
}

impl Source {
    /// Why a put of it failed, naming the file where that was the reason.
    pub fn fault(&self, error: ClientError) -> Failure {
        match error {
            ClientError::Local(error) => read_fault(&self.name, &error),
            other => other.into(),
        }
    }
}

/// The sentence of a file that could not be read to its end.
pub fn read_fault(name: impl Display, error: &io::Error) -> Failure {
    let error: &dyn Display = match error.kind() {
        io::ErrorKind::UnexpectedEof => &"shrank while it was read",
        _ => error,
    };
    Code::Local.failure(format_args!("{name}: {error}"))
}

/// Opens the value of a put.
pub fn source(file: Option<&Path>) -> Result<Source, Failure> {
    let (mut file, name) = match file {
        Some(path) => {
            let file = File::open(path).naming(Code::Local, path.display())?;
            (file, path.display().to_string())
        }
        None => (standard_input()?, "standard input".to_owned()),
    };
    let metadata = file.metadata().naming(Code::Local, &name)?;
    if metadata.is_dir() {
        return Code::Local.because(format_args!("{name} is a folder: use `dynomite load`"));
    }
    let left = if metadata.is_file() {
        let place = file.stream_position().naming(Code::Local, &name)?;
        metadata.len().saturating_sub(place)
    } else {
        0
    };
    let length = if left > 0 {
        left
    } else {
        // The protocol wants the length first, so what has none is spooled. Files of /proc say that
        // they are empty, and are not.
        let mut spool = tempfile::tempfile().naming(Code::Local, "the spool file")?;
        let mut limited = (&mut file).take(VALUE_BYTES_MAX + 1);
        let length = io::copy(&mut limited, &mut spool).naming(Code::Local, &name)?;
        spool
            .seek(SeekFrom::Start(0))
            .naming(Code::Local, "the spool file")?;
        file = spool;
        length
    };
    if length > VALUE_BYTES_MAX {
        return Code::Refused.because(format_args!(
            "{name} is too long for one value: {VALUE_BYTES_MAX} bytes are allowed"
        ));
    }
    let reader = Box::new(file);
    Ok(Source {
        reader,
        length,
        name,
    })
}

/// Standard input as a file: one that has a length is not spooled.
fn standard_input() -> Result<File, Failure> {
    use std::os::fd::AsFd;

    let input = io::stdin().as_fd().try_clone_to_owned();
    Ok(File::from(input.naming(Code::Local, "standard input")?))
}

/// Where a value goes.
pub enum Sink {
    /// To standard output.
    Output,
    /// Into what is there and no file: a device, a pipe.
    Place(File, PathBuf),
    /// To a file that takes its name once it is whole.
    File {
        /// The file so far.
        file: NamedTempFile,
        /// Its name, links followed.
        path: PathBuf,
        /// The mode of the file that it replaces.
        mode: Option<Permissions>,
    },
}

impl Sink {
    /// A sink for `path`, or standard output.
    pub fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::Output);
        };
        Self::at(path).naming(Code::Local, path.display())
    }

    fn at(path: &Path) -> io::Result<Self> {
        let (path, mode) = match fs::metadata(path) {
            Ok(there) if !there.is_file() => {
                let place = OpenOptions::new().write(true).open(path)?;
                return Ok(Self::Place(place, path.to_owned()));
            }
            // A link stays, and what it leads to is replaced.
            Ok(there) => (path.canonicalize()?, Some(there.permissions())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) if path.symlink_metadata().is_ok() => {
                return Err(io::Error::other("it is a link that leads nowhere"));
            }
            Err(_) => (path.to_owned(), None),
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        if mode.is_none() {
            // As any new file: less what the caller's umask takes away.
            builder.permissions(Permissions::from_mode(0o666));
        }
        fs::metadata(folder)?;
        // Its own words name a file that nobody has asked for.
        let plain = |error: io::Error| io::Error::from(error.kind());
        let file = builder.tempfile_in(folder).map_err(plain)?;
        Ok(Self::File { file, path, mode })
    }

    /// Takes the next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Output => io::stdout().lock().write_all(bytes),
            Self::Place(place, _) => place.write_all(bytes),
            Self::File { file, .. } => file.write_all(bytes),
        }
    }

    /// The value is whole.
    pub fn end(self) -> Result<(), Failure> {
        match self {
            Self::Output => io::stdout().flush().map_err(|error| output(&error)),
            Self::Place(mut place, path) => place.flush().naming(Code::Local, path.display()),
            Self::File { file, path, mode } => {
                let finish = || {
                    if let Some(mode) = mode {
                        file.as_file().set_permissions(mode)?;
                    }
                    file.as_file().sync_all()
                };
                finish().naming(Code::Local, path.display())?;
                file.persist(&path).naming(Code::Local, path.display())?;
                Ok(())
            }
        }
    }
}
