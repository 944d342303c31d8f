//! The node's end of the control socket.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{interval, sleep, timeout};

use super::{Answer, HASHES_MAX, Hex, NodeStatus, Request, SOCKET, frame, socket_path};
use crate::error::Error;
use crate::mediator::{Mediator, RequestError};
use crate::storage::StorageError;

/// Conversations at a time.
const CONVERSATIONS_MAX: usize = 256;
/// How often a long request says that it is still at it.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long conversations, and work that nobody waits for any more, may take to end once the store has
/// closed.
const END_MAX: Duration = Duration::from_secs(10);

/// What the socket needs of the running node.
pub(crate) struct Backing {
    pub(crate) mediator: Arc<Mediator>,
    /// The node's own part of a status; the store's is added.
    pub(crate) status: Box<dyn Fn() -> NodeStatus + Send + Sync>,
    /// Set to true, it stops the node.
    pub(crate) stop: watch::Sender<bool>,
    /// How the store closed, once it has.
    pub(crate) gone: watch::Receiver<Option<Result<(), Refusal>>>,
}

/// The control socket of a running node.
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    /// The device and the number of the socket's own file.
    file: (u64, u64),
    owner: u32,
    backing: Arc<Backing>,
}

impl Control {
    /// Takes the socket's place in the data folder. The caller holds the store's lock, so a
    /// socket that is there already belonged to a node that is gone.
    pub(crate) fn bind(folder: &Path, backing: Backing) -> Result<Self, Error> {
        let bind = || {
            // Bound under another name and renamed, it never stands there with a wider mode.
            let name = format!("{SOCKET}.new");
            let new = folder.join(&name);
            remove(&new)?;
            let (bound, _folder) = socket_path(folder, &name)?;
            let listener = UnixListener::bind(bound)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
            let metadata = std::fs::symlink_metadata(&new)?;
            let path = folder.join(SOCKET);
            std::fs::rename(new, &path)?;
            Ok((listener, path, metadata))
        };
        let (listener, path, metadata) =
            bind().map_err(|source: io::Error| Error::control(&folder.join(SOCKET), source))?;
        let backing = Arc::new(backing);
        Ok(Self {
            listener,
            path,
            file: file_of(&metadata),
            owner: metadata.uid(),
            backing,
        })
    }

    /// Serves until the store has closed; conversations that are open then end with it.
    pub(crate) async fn run(self) {
        let mut gone = self.backing.gone.clone();
        let mut tasks = JoinSet::new();
        let places = Arc::new(Semaphore::new(CONVERSATIONS_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
                _ = gone.wait_for(Option::is_some) => break,
            };
            let Ok((stream, _)) = accepted else {
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let may = stream
                .peer_cred()
                .is_ok_and(|peer| [0, self.owner].contains(&peer.uid()));
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                continue;
            };
            if may {
                let backing = Arc::clone(&self.backing);
                tasks.spawn(async move {
                    // A client that breaks off has nobody to be told.
                    let _ = converse(stream, &backing, place.into()).await;
                });
            }
        }
        // The folder may have been moved since, and another node's stand in its place.
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| file_of(&there) == self.file) {
            let _ = remove(&self.path);
        }
        // Whoever asked for the stop is told how it ended; a backup under way meets the closed store and
        // removes its file.
        let all = u32::try_from(CONVERSATIONS_MAX).expect("256");
        let _ = timeout(END_MAX, places.acquire_many(all)).await;
        tasks.shutdown().await;
    }
}

fn file_of(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Holds its place until it has ended, and its work too: that goes on where the client breaks off.
async fn converse(
    mut stream: UnixStream,
    backing: &Arc<Backing>,
    place: Arc<OwnedSemaphorePermit>,
) -> io::Result<()> {
    let mut gone = backing.gone.clone();
    loop {
        let request = tokio::select! {
            request = frame::receive::<Request>(&mut stream) => request?,
            _ = gone.wait_for(Option::is_some) => None,
        };
        let Some(request) = request else {
            return Ok(());
        };
        if request == Request::Stop {
            frame::send(&mut stream, &Answer::Stopping).await?;
            backing.stop.send_replace(true);
            let closed = gone.wait_for(Option::is_some).await;
            let answer = match closed.ok().and_then(|closed| closed.clone()) {
                Some(Ok(())) => Answer::Stopped,
                Some(Err(refusal)) => refusal.into(),
                // Who waited for the store is gone.
                None => return Ok(()),
            };
            frame::send(&mut stream, &answer).await?;
            return Ok(());
        }
        let answer = {
            let (backing, place) = (Arc::clone(backing), Arc::clone(&place));
            let mut work = spawn_blocking(move || {
                let answer = answer(request, &backing);
                drop(place);
                answer
            });
            let mut progress = interval(PROGRESS);
            progress.tick().await;
            loop {
                tokio::select! {
                    done = &mut work => break done,
                    _ = progress.tick() => frame::send(&mut stream, &Answer::Progress).await?,
                }
            }
        };
        let failed = |panic| Refusal::from(format!("the node failed at this request: {panic}"));
        let answer = answer
            .unwrap_or_else(|panic: JoinError| Err(failed(panic)))
            .unwrap_or_else(Answer::from);
        frame::send(&mut stream, &answer).await?;
    }
}

/// Why a request is not done.
#[derive(Clone)]
pub(crate) struct Refusal {
    reason: String,
    damage: bool,
}

impl From<Refusal> for Answer {
    fn from(Refusal { reason, damage }: Refusal) -> Self {
        Self::Failed { reason, damage }
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        let damage = false;
        Self { reason, damage }
    }
}

impl From<&StorageError> for Refusal {
    fn from(error: &StorageError) -> Self {
        Self {
            reason: error.to_string(),
            damage: error.is_damage(),
        }
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        Self::from(&error)
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Storage(error) => error.into(),
            other => other.to_string().into(),
        }
    }
}

fn answer(request: Request, backing: &Backing) -> Result<Answer, Refusal> {
    let (mediator, storage) = (&backing.mediator, backing.mediator.storage());
    match request {
        Request::Address => {
            let text = (backing.status)().text_address;
            Ok(Answer::Address { text })
        }
        Request::Status => {
            let mut status = (backing.status)();
            status.store = storage.status()?;
            if let Some(folder) = storage.folder() {
                status.directory = folder.display().to_string();
            }
            Ok(Answer::Status(Box::new(status)))
        }
        Request::Stop => Ok(Answer::Stopping),
        Request::Backup { path } => {
            let path = PathBuf::from(OsString::from_vec(path.0));
            if !path.is_absolute() {
                return Err(
                    format!("the backup's path must be absolute: {}", path.display()).into(),
                );
            }
            if path.symlink_metadata().is_ok() {
                return Err(
                    format!("{} is there already: choose a new file", path.display()).into(),
                );
            }
            Ok(Answer::Backup(storage.backup(&path)?))
        }
        Request::Check => Ok(Answer::Check(storage.check()?)),
        Request::Hashes { keys } => {
            bounded(&keys)?;
            let hashes: Result<Vec<_>, RequestError> = keys
                .iter()
                .map(|key| {
                    let hashes = mediator.hashes(&key.0, false)?.unwrap_or_default();
                    Ok(hashes.into_iter().map(|hash| Hex(hash.to_vec())).collect())
                })
                .collect();
            Ok(Answer::Hashes { hashes: hashes? })
        }
        Request::Delete { keys } => {
            bounded(&keys)?;
            for key in &keys {
                mediator.delete(&key.0)?;
            }
            Ok(Answer::Deleted)
        }
    }
}

fn bounded(keys: &[Hex]) -> Result<(), Refusal> {
    if keys.len() > HASHES_MAX {
        return Err(format!("{} keys at once, and {HASHES_MAX} are allowed", keys.len()).into());
    }
    Ok(())
}
