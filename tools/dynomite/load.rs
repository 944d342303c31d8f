//! `dynomite load`: every file below a folder becomes a value, its relative path the key.
//!
//! Several connections each take a stretch of the files, hash them, ask the node for the hashes
//! of what it has, and put what differs: so an interrupted load goes on where it was, and a second
//! one moves nothing. A node gives no hash of a value that it knows to be damaged, so what a check
//! has named is stored anew; with `--verify` it reads each value before it answers.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use node::client::{ClientError, Held, TextClient};
use node::text::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::Load;
use crate::files::read_fault;
use crate::outcome::{Code, Failure, Naming, Outcome, complain, say, say_json};
use crate::requests::address;
use crate::status::{amount, duration};

/// Files that a connection takes at a time: one question for their hashes.
const STRETCH: usize = 64;
/// And bytes, unless a single file has more: short files are held until their put.
const STRETCH_BYTES: u64 = 16 << 20;
/// A file no longer than this is read once, for its hash and its put.
const HOLD_BYTES: u64 = 1 << 20;
/// Files that could not be loaded are named one by one, up to this many.
const NAMED_MAX: usize = 20;
/// The exit code of an interrupted load, as shells have it: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

/// A file to be loaded.
struct Item {
    path: PathBuf,
    key: Vec<u8>,
    length: u64,
}

/// What was found below the folder.
#[derive(Default)]
struct Found {
    items: Vec<Item>,
    bytes: u64,
    /// Symbolic links and special files.
    passed_over: u64,
    /// What cannot be loaded, and why.
    faults: Vec<String>,
}

/// What all connections share.
struct Shared {
    address: String,
    stretches: Vec<Vec<Item>>,
    /// The next one that nobody has taken.
    next: AtomicUsize,
    stop: AtomicBool,
    stored: AtomicU64,
    stored_bytes: AtomicU64,
    equal: AtomicU64,
    /// Of those stored, how many the node had damaged.
    healed: AtomicU64,
    /// A file could not be stored because what is around its key is damaged.
    damage: AtomicBool,
    verify: bool,
    faults: Mutex<Vec<String>>,
    failure: Mutex<Option<Failure>>,
    bar: ProgressBar,
}

/// `dynomite load`
pub fn load(load: &Load) -> Outcome {
    let address = address(&load.node)?;
    // A node that is not there is named before a large folder is walked.
    TextClient::connect(&address)?;
    let since = Instant::now();
    let interrupt = Interrupt::listen()?;
    let mut found = find(&load.directory)?;
    let shared = Arc::new(Shared {
        address,
        stretches: stretches(std::mem::take(&mut found.items)),
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        stored: AtomicU64::new(0),
        stored_bytes: AtomicU64::new(0),
        equal: AtomicU64::new(0),
        healed: AtomicU64::new(0),
        damage: AtomicBool::new(false),
        verify: load.verify,
        faults: Mutex::new(std::mem::take(&mut found.faults)),
        failure: Mutex::new(None),
        bar: bar(found.bytes),
    });
    interrupt.tell(&shared);
    std::thread::scope(|scope| {
        for _ in 0..load.connections {
            scope.spawn(|| shared.work());
        }
    });
    shared.bar.finish_and_clear();
    let faults = std::mem::take(&mut *lock(&shared.faults));
    for fault in faults.iter().take(NAMED_MAX) {
        complain(fault);
    }
    if faults.len() > NAMED_MAX {
        complain(format_args!("and {} more", faults.len() - NAMED_MAX));
    }
    if let Some(failure) = lock(&shared.failure).take() {
        return failure.code.because(format_args!(
            "{}; {} files were stored: load again, and what is there is passed over",
            failure.error,
            shared.stored.load(Ordering::Relaxed)
        ));
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (stored, equal) = (count(&shared.stored), count(&shared.equal));
    let (bytes, healed) = (count(&shared.stored_bytes), count(&shared.healed));
    let took = since.elapsed();
    let rate = u128::from(bytes) * 1_000_000 / took.as_micros().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    if load.json {
        say_json(&json!({
            "stored": stored,
            "stored_bytes": bytes,
            "equal": equal,
            "healed": healed,
            "passed_over": found.passed_over,
            "faults": faults,
            "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }))?;
    } else {
        let healed = match healed {
            0 => String::new(),
            healed => format!("; {healed} of them were damaged in the store"),
        };
        say(format_args!(
            "stored {stored} files, {}, in {} ({}/s){healed}; {equal} were there and equal; \
             {} links and special files passed over; {} faults",
            amount(bytes),
            duration(took),
            amount(rate),
            found.passed_over,
            faults.len()
        ))?;
    }
    Ok(if shared.damage.load(Ordering::Relaxed) {
        Code::Damage
    } else if faults.is_empty() {
        Code::Done
    } else {
        Code::Local
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ctrl-C and SIGTERM: what was loaded is said in a line, and the process ends at once. Puts under
/// way are whole in the node or not there at all.
struct Interrupt(Arc<Mutex<Option<Arc<Shared>>>>);

impl Interrupt {
    fn listen() -> Result<Self, Failure> {
        let shared = Arc::new(Mutex::new(None::<Arc<Shared>>));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .naming(Code::Local, "Ctrl-C")?;
        let (mut interrupt, mut terminate) = {
            let _context = runtime.enter();
            let listen = |kind| signal(kind).naming(Code::Local, "Ctrl-C");
            (
                listen(SignalKind::interrupt())?,
                listen(SignalKind::terminate())?,
            )
        };
        let told = Arc::clone(&shared);
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
            });
            let loaded = match &*lock(&told) {
                None => "nothing was loaded yet".to_owned(),
                Some(shared) => shared.interrupted(),
            };
            complain(format_args!(
                "interrupted: {loaded}: load again, and it goes on from there"
            ));
            std::process::exit(INTERRUPTED);
        });
        Ok(Self(shared))
    }

    /// From here on there is something to be said.
    fn tell(&self, shared: &Arc<Shared>) {
        *lock(&self.0) = Some(Arc::clone(shared));
    }
}

/// Cuts the files into stretches.
fn stretches(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut stretches: Vec<Vec<Item>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        bytes += item.length;
        match stretches.last_mut() {
            Some(last) if last.len() < STRETCH && bytes <= STRETCH_BYTES => last.push(item),
            _ => {
                bytes = item.length;
                stretches.push(vec![item]);
            }
        }
    }
    stretches
}

fn bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{bar:40} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}",
    );
    let bar = ProgressBar::new(bytes);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Walks the folder. Links are not followed: they may lead out of it, or round in it.
fn find(directory: &Path) -> Result<Found, Failure> {
    let metadata = fs::metadata(directory).naming(Code::Local, directory.display())?;
    if !metadata.is_dir() {
        return Code::Local.because(format_args!(
            "{} is no folder: use `dynomite put`",
            directory.display()
        ));
    }
    let mut found = Found::default();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) => {
                found.faults.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        for entry in entries {
            let seen = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
            match seen {
                Err(error) => found.faults.push(format!("{}: {error}", folder.display())),
                Ok((path, metadata)) if metadata.is_dir() => folders.push(path),
                Ok((path, metadata)) if metadata.is_file() => {
                    found.take(directory, path, metadata.len());
                }
                Ok(_) => found.passed_over += 1,
            }
        }
    }
    // In order, a load that was interrupted shows at a glance how far it came.
    found.items.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(found)
}

impl Found {
    fn take(&mut self, directory: &Path, path: PathBuf, length: u64) {
        let relative = path.strip_prefix(directory).unwrap_or(&path);
        let key = relative.as_os_str().as_bytes().to_vec();
        if key.len() > KEY_BYTES_MAX {
            let reason = format!("its path has over {KEY_BYTES_MAX} bytes");
            self.faults.push(format!("{}: {reason}", path.display()));
        } else if length > VALUE_BYTES_MAX {
            let reason = format!("it has {length} bytes, and {VALUE_BYTES_MAX} are allowed");
            self.faults.push(format!("{}: {reason}", path.display()));
        } else {
            self.bytes += length;
            self.items.push(Item { path, key, length });
        }
    }
}

/// A file that was read for its hash.
struct Hashed<'a> {
    item: &'a Item,
    hash: [u8; 32],
    /// The bytes of a short one.
    held: Option<Vec<u8>>,
    length: u64,
}

impl Shared {
    /// What has been loaded so far.
    fn interrupted(&self) -> String {
        self.bar.finish_and_clear();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        format!(
            "{} files, {}, were stored, {} were there and equal",
            count(&self.stored),
            amount(count(&self.stored_bytes)),
            count(&self.equal)
        )
    }

    /// Loads stretch after stretch until none is left or the node is gone.
    fn work(&self) {
        let result = TextClient::connect(&self.address)
            .map_err(Failure::from)
            .and_then(|mut client| {
                while !self.stop.load(Ordering::Relaxed) {
                    let next = self.next.fetch_add(1, Ordering::Relaxed);
                    let Some(stretch) = self.stretches.get(next) else {
                        break;
                    };
                    self.stretch(&mut client, stretch)?;
                }
                Ok(())
            });
        if let Err(failure) = result {
            self.stop.store(true, Ordering::Relaxed);
            lock(&self.failure).get_or_insert(failure);
        }
    }

    fn stretch(&self, client: &mut TextClient, items: &[Item]) -> Result<(), Failure> {
        let mut hashed = Vec::with_capacity(items.len());
        for item in items {
            match hash(item) {
                Ok(file) => hashed.push(file),
                Err(error) => self.fault(item, &error),
            }
        }
        let keys: Vec<&[u8]> = hashed.iter().map(|file| &file.item.key[..]).collect();
        let there = self.twice(client, |client| client.hashes(&keys, self.verify))?;
        for (file, there) in hashed.into_iter().zip(there) {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let damaged = matches!(there, Held::Damaged(_));
            if there == Held::Hashes(vec![file.hash]) {
                self.equal.fetch_add(1, Ordering::Relaxed);
                self.bar.inc(file.item.length);
                continue;
            }
            match self.twice(client, |client| put(client, &file)) {
                Ok(_) => {
                    self.stored.fetch_add(1, Ordering::Relaxed);
                    self.healed.fetch_add(u64::from(damaged), Ordering::Relaxed);
                    self.stored_bytes.fetch_add(file.length, Ordering::Relaxed);
                    self.bar.inc(file.item.length);
                }
                Err(ClientError::Local(error)) => {
                    // The file shrank under the put: this connection has lost step.
                    self.fault(file.item, &error);
                    *client = TextClient::connect(&self.address)?;
                }
                // What is around this key; others may be sound.
                Err(ClientError::Damaged(reason)) => {
                    self.damage.store(true, Ordering::Relaxed);
                    self.bar.inc(file.item.length);
                    let sentence = format!("{}: {reason}", file.item.path.display());
                    lock(&self.faults).push(sentence);
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    let sentence = format!("{}: {}", file.item.path.display(), failure.error);
                    return failure.code.because(sentence);
                }
            }
        }
        Ok(())
    }

    /// Asks again on a new connection where the old one broke: the node may have been started anew,
    /// or have ended a connection that was idle over the reading of large files. A put that had
    /// been taken already only says the same once more.
    fn twice<T>(
        &self,
        client: &mut TextClient,
        ask: impl Fn(&mut TextClient) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        match ask(client) {
            Err(ClientError::Broken(_)) => {
                *client = TextClient::connect(&self.address)?;
                ask(client)
            }
            answer => answer,
        }
    }

    fn fault(&self, item: &Item, error: &io::Error) {
        self.bar.inc(item.length);
        let failure = read_fault(item.path.display(), error);
        lock(&self.faults).push(failure.error.to_string());
    }
}

fn hash(item: &Item) -> io::Result<Hashed<'_>> {
    // What was a file at the walk may be another by now: its bytes count, up to the limit.
    let mut file = File::open(&item.path)?.take(VALUE_BYTES_MAX + 1);
    if item.length <= HOLD_BYTES {
        let mut held = Vec::with_capacity(usize::try_from(item.length).unwrap_or(0) + 1);
        file.by_ref().take(HOLD_BYTES).read_to_end(&mut held)?;
        if (held.len() as u64) < HOLD_BYTES {
            let (hash, length) = (*blake3::hash(&held).as_bytes(), held.len() as u64);
            return Ok(Hashed {
                item,
                hash,
                held: Some(held),
                length,
            });
        }
        file = File::open(&item.path)?.take(VALUE_BYTES_MAX + 1);
    }
    let mut hasher = blake3::Hasher::new();
    let length = io::copy(&mut file, &mut hasher)?;
    if length > VALUE_BYTES_MAX {
        return Err(io::Error::other("it has grown over the longest value"));
    }
    let hash = *hasher.finalize().as_bytes();
    Ok(Hashed {
        item,
        hash,
        held: None,
        length,
    })
}

fn put(client: &mut TextClient, file: &Hashed<'_>) -> Result<u64, ClientError> {
    let key = &file.item.key;
    if let Some(held) = &file.held {
        return client.put(key, b"", file.length, &mut &held[..]);
    }
    let mut opened = File::open(&file.item.path).map_err(ClientError::Local)?;
    client.put(key, b"", file.length, &mut opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_is_bounded_by_files_and_by_bytes() {
        let items = |lengths: &[u64]| -> Vec<Item> {
            let item = |&length| Item {
                path: PathBuf::new(),
                key: Vec::new(),
                length,
            };
            lengths.iter().map(item).collect()
        };
        let cut = |lengths: &[u64]| -> Vec<usize> {
            let stretches = stretches(items(lengths));
            stretches.iter().map(Vec::len).collect()
        };
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[0; 130]), [64, 64, 2]);
        assert_eq!(cut(&[STRETCH_BYTES / 2; 5]), [2, 2, 1]);
        assert_eq!(cut(&[1, STRETCH_BYTES + 1, 1]), [1, 1, 1]);
    }
}
