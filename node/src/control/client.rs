//! The command line's end of the control socket. It blocks.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Answer, Hex, NodeStatus, Request, SILENCE, SOCKET, frame, socket_path};
use crate::storage::{BackupReport, CheckReport};

/// Why the node did not answer, or not as hoped.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no node is running on {}: {source}", .folder.display())]
    NotRunning {
        /// The data folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody may listen, but not to this user.
    #[error("the node's folder {} is not this user's: {source}", .folder.display())]
    Denied {
        /// The data folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the node broke off: {0}")]
    Broken(#[from] io::Error),
    /// Bytes on the node's disk are not what was put.
    #[error("{0}")]
    Damaged(String),
    /// The node says no.
    #[error("{0}")]
    Failed(String),
}

/// A conversation with the node of a data folder.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the node that runs on `folder`.
    pub fn connect(folder: &Path) -> Result<Self, ControlError> {
        let connect = || {
            let (path, _folder) = socket_path(folder, SOCKET)?;
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(SILENCE))?;
            Ok(stream)
        };
        let stream = connect().map_err(|source: io::Error| {
            let folder = folder.to_owned();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ControlError::Denied { folder, source }
            } else {
                ControlError::NotRunning { folder, source }
            }
        })?;
        Ok(Self { stream })
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ControlError> {
        frame::write(&mut self.stream, request)?;
        loop {
            match frame::read(&mut self.stream)? {
                Answer::Progress => {}
                Answer::Failed { reason, damage } => return Err(failed(reason, damage)),
                answer => return Ok(answer),
            }
        }
    }

    /// Where the text protocol is spoken.
    pub fn address(&mut self) -> Result<String, ControlError> {
        match self.ask(&Request::Address)? {
            Answer::Address { text } => Ok(text),
            other => Err(unexpected(&other)),
        }
    }

    /// What the node says of itself.
    pub fn status(&mut self) -> Result<NodeStatus, ControlError> {
        match self.ask(&Request::Status)? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Stops the node and waits until it is gone. An error where its store did not close as it should.
    pub fn stop(&mut self) -> Result<(), ControlError> {
        match self.ask(&Request::Stop)? {
            Answer::Stopping => {}
            other => return Err(unexpected(&other)),
        }
        // A last checkpoint takes its time.
        self.stream.set_read_timeout(None)?;
        match frame::read::<Answer>(&mut self.stream) {
            Ok(Answer::Stopped) => Ok(()),
            Ok(Answer::Failed { reason, damage }) => Err(failed(reason, damage)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a consistent copy.
    pub fn backup(&mut self, path: &Path) -> Result<BackupReport, ControlError> {
        let path = Hex(path.as_os_str().as_bytes().to_vec());
        match self.ask(&Request::Backup { path })? {
            Answer::Backup(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// Verifies the store.
    pub fn check(&mut self) -> Result<CheckReport, ControlError> {
        match self.ask(&Request::Check)? {
            Answer::Check(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }
}

fn failed(reason: String, damage: bool) -> ControlError {
    if damage {
        ControlError::Damaged(reason)
    } else {
        ControlError::Failed(reason)
    }
}

fn unexpected(answer: &Answer) -> ControlError {
    let answer = format!("{answer:?}");
    let start: String = answer.chars().take(80).collect();
    ControlError::Failed(format!("the node answered something else: {start}"))
}
