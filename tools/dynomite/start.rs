//! `dynomite start`: a node, from its configuration to its clean stop.
//!
//! Detached, the command starts itself anew in a session of its own and waits until that one
//! serves: what goes wrong before is still told here, with its exit code.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use node::config::Config;
use node::running::Running;
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, setrlimit, setsid, umask};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::arguments::Start;
use crate::outcome::{Code, Failure, Naming, Outcome, say};

/// Set in the environment of the process that goes on in the background.
const DETACHED: &str = "DYNOMITE_DETACHED";
/// The log's name in its folder, the original's.
const LOG: &str = "dynomite.log";
/// More than a process id takes.
const PID_BYTES_MAX: u64 = 64;
/// Descriptors beside those of clients: the store's, the sockets, 256 conversations on the control
/// socket, clients that are being refused, and room. Without one, the store cannot even back up.
const DESCRIPTORS_SPARE: u64 = 1024;

/// `dynomite start`
pub fn start(arguments: &Start) -> Outcome {
    if arguments.detached && std::env::var_os(DETACHED).is_none() {
        return detach();
    }
    serve(arguments)
}

/// Starts this command again, in the background, and waits until it serves or fails.
fn detach() -> Outcome {
    let own = "this program, to start it in the background";
    let program = std::env::current_exe().naming(Code::Local, own)?;
    let mut child = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .naming(Code::Local, own)?;
    let mut greeting = String::new();
    if let Some(mut output) = child.stdout.take() {
        output
            .read_to_string(&mut greeting)
            .naming(Code::Local, own)?;
    }
    if !greeting.is_empty() {
        say(greeting.trim_end())?;
        return Ok(Code::Done);
    }
    // It has told why on standard error, which it shares.
    let status = child.wait().naming(Code::Local, own)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    std::process::exit(i32::from(code.unwrap_or(4)));
}

fn configuration(arguments: &Start) -> Result<Config, Failure> {
    let mut config = match &arguments.config {
        Some(path) => Config::read(path).map_err(|error| Code::Usage.failure(error))?,
        None => Config::default(),
    };
    if let Some(data) = &arguments.data {
        config.directory.clone_from(data);
    }
    if let Some(port) = arguments.text_port {
        config.text_port = port;
    }
    Ok(config)
}

fn serve(arguments: &Start) -> Outcome {
    let mut config = configuration(arguments)?;
    // The store holds a secret, the log may hold keys: no file of ours is for others.
    umask(Mode::RWXG | Mode::RWXO);
    let detached = arguments.detached;
    if detached {
        // It fails only for a leader of its group, which has what it asks for.
        let _ = setsid();
    }
    let mut pidfile = Pidfile::claim(arguments.pidfile.as_deref())?;
    let mut made = Made::default();
    made.data_folder(&config.directory)?;
    let log = Arc::new(Mutex::new(Log::open(
        arguments,
        &config.directory,
        &mut made,
    )?));
    let note = |line: &str| locked(&log).note(line);
    for notice in std::mem::take(&mut config.notices) {
        note(&notice);
    }
    if let Some(fewer) = raise_descriptors(config.max_connections) {
        note(&format!(
            "the system gives this process descriptors for {fewer} connections, not {}: raise \
             `ulimit -n`",
            config.max_connections
        ));
        config.max_connections = fewer;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .naming(Code::Local, "the network's threads")?;
    let mut socket = runtime
        .block_on(node::server::reserve(&config.listen, config.text_port))
        .map_err(|error| Code::Refused.failure(error));
    if !config.directory.join(node::storage::STORE).exists() {
        // No store is made for a node that cannot serve it. Where there is one, it is tried first:
        // who starts a node twice is told of the node, not of the port.
        socket = Ok(socket?);
    }
    let storage = node::storage::open(&config, arguments.accept_loss)
        .map_err(|error| Code::Refused.failure(error))?;
    let socket = socket?;
    made.keep();
    let listener = Arc::clone(&log);
    storage.listen(Box::new(move |line| locked(&listener).note(line)));
    let result = runtime.block_on(async {
        // From here on whoever asks it to stop is heard, if only once it serves.
        let mut signals = Signals::listen(detached)?;
        let running = Running::start_at(socket, &config, Arc::new(storage))
            .map_err(|error| Code::Refused.failure(error))?;
        // Once it serves, it stops cleanly whatever happens.
        let ready = pidfile
            .write()
            .and_then(|()| announce(&running, &config.directory, &mut locked(&log), detached));
        if ready.is_ok() {
            let reason = tokio::select! {
                () = running.asked_to_stop() => "asked to stop",
                reason = signals.any() => reason,
            };
            note(&format!("{reason}: stopping"));
        }
        let stopped = tokio::select! {
            stopped = running.stop() => stopped.map_err(|error| Code::Refused.failure(error)),
            // Whoever presses twice does not want to wait: the log brings back what is in memory.
            _ = signals.interrupt.recv() => Code::Local.because("stopped before the last checkpoint"),
        };
        ready.and(stopped)
    });
    match &result {
        Ok(()) => note("stopped"),
        Err(failure) => locked(&log).record(&format!("stopped: {}", failure.error)),
    }
    // A client that does not read must not hold the end up.
    runtime.shutdown_background();
    result.map(|()| Code::Done)
}

/// The signals that end a node.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Taken and passed over: a node in the background outlives its terminal.
    _hangup: Option<Signal>,
}

impl Signals {
    fn listen(detached: bool) -> Result<Self, Failure> {
        let hangup = detached.then(|| signal(SignalKind::hangup()));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).naming(Code::Local, "SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).naming(Code::Local, "Ctrl-C")?,
            _hangup: hangup.transpose().naming(Code::Local, "SIGHUP")?,
        })
    }

    /// The name of the next one.
    async fn any(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

/// Tells that the node serves.
fn announce(running: &Running, data: &Path, log: &mut Log, detached: bool) -> Result<(), Failure> {
    // A node that nobody watches serves all the same.
    let _ = greet(running, data);
    log.record(&format!("serving on {}", running.address()));
    if detached {
        log.take_over()?;
    }
    Ok(())
}

fn greet(running: &Running, directory: &Path) -> Result<(), Failure> {
    let data = match directory.to_str() {
        Some("dynomite-data") => String::new(),
        _ => format!(
            " --data {}",
            node::error::quoted(&directory.to_string_lossy())
        ),
    };
    say(format_args!(
        "dynomite serves {} on {} (process {})\n\
         put a first value:  echo hello | dynomite put{data} greeting\n\
         and get it back:    dynomite get{data} greeting",
        directory.display(),
        running.address(),
        std::process::id()
    ))
}

/// What a start has made so far. If it comes to nothing, what is empty goes again: the innermost
/// folder first.
#[derive(Default)]
struct Made {
    folders: Vec<PathBuf>,
    log: Option<PathBuf>,
}

impl Made {
    /// Makes the data folder, for its owner alone. One that is there is taken as it is.
    fn data_folder(&mut self, path: &Path) -> Result<(), Failure> {
        let name = format_args!("cannot use the data folder {}", path.display()).to_string();
        if path.exists() && !path.is_dir() {
            return Code::Refused.because(format_args!("{name}: it is no folder"));
        }
        self.folder(path).naming(Code::Refused, name)
    }

    fn folder(&mut self, path: &Path) -> io::Result<()> {
        let is_new = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let new = path.ancestors().take_while(is_new).map(Path::to_owned);
        self.folders.splice(..0, new);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path)
    }

    /// The start has come to a store.
    fn keep(&mut self) {
        self.folders.clear();
        self.log = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(log) = &self.log
            && fs::metadata(log).is_ok_and(|metadata| metadata.len() == 0)
        {
            let _ = fs::remove_file(log);
        }
        for folder in &self.folders {
            // One that holds something is not removed.
            let _ = fs::remove_dir(folder);
        }
    }
}

/// Lets this process have all descriptors that it may have. Where the system's hard limit does not
/// suffice for its connections, gives how many it does suffice for.
fn raise_descriptors(connections: usize) -> Option<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    connections_of(getrlimit(Resource::Nofile).current?, connections)
}

/// How many connections so many descriptors suffice for, if for fewer than `wanted`.
fn connections_of(descriptors: u64, wanted: usize) -> Option<usize> {
    if descriptors >= wanted as u64 + DESCRIPTORS_SPARE {
        return None;
    }
    let spare = DESCRIPTORS_SPARE.min(descriptors / 2);
    let connections = usize::try_from((descriptors - spare).max(1)).ok()?;
    Some(connections).filter(|connections| *connections < wanted)
}

fn locked(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the node notes what happens: standard error, and the log's file if there is one.
struct Log {
    file: Option<File>,
    background: bool,
}

impl Log {
    fn open(arguments: &Start, data: &Path, made: &mut Made) -> Result<Self, Failure> {
        let folder = match &arguments.log {
            Some(folder) => Some(folder.as_path()),
            None => arguments.detached.then_some(data),
        };
        let mut open = |folder: &Path| {
            made.folder(folder)?;
            let path = folder.join(LOG);
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            made.log = (!path.exists()).then(|| path.clone());
            options.open(path)
        };
        let file =
            folder.map(|folder| open(folder).naming(Code::Local, folder.join(LOG).display()));
        Ok(Self {
            file: file.transpose()?,
            background: false,
        })
    }

    /// Notes a line for whoever watches.
    fn note(&mut self, line: &str) {
        self.record(line);
        if !self.background {
            let _ = writeln!(io::stderr(), "dynomite: {line}");
        }
    }

    /// Notes a line in the file alone. A log that cannot be written does not stop a node.
    fn record(&mut self, line: &str) {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_secs());
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{} {line}", utc(seconds));
        }
    }

    /// From here on whatever is written goes to the log: the terminal is let go, and whoever
    /// started the node sees that it serves.
    fn take_over(&mut self) -> Result<(), Failure> {
        self.background = true;
        if let Some(file) = &self.file {
            rustix::stdio::dup2_stdout(file).naming(Code::Local, LOG)?;
            rustix::stdio::dup2_stderr(file).naming(Code::Local, LOG)?;
        }
        Ok(())
    }
}

/// Seconds since 1970 as a date and time (Howard Hinnant, "chrono-compatible low-level date
/// algorithms", 2014).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The name of a process's program, unless it has ended. One whose parent never asks after it, as in
/// many containers, is named long after it was killed.
pub fn program(process: &str) -> Option<Vec<u8>> {
    let status = fs::read(format!("/proc/{process}/stat")).ok()?;
    let start = status.iter().position(|byte| *byte == b'(')? + 1;
    let end = status.iter().rposition(|byte| *byte == b')')?;
    let state = status.get(end + 2)?;
    let name = status.get(start..end)?;
    (!b"ZX".contains(state)).then(|| name.to_owned())
}

/// The file with the process id, gone with the node. What is no such file is never written over.
struct Pidfile {
    path: Option<PathBuf>,
    written: bool,
}

impl Pidfile {
    /// Sees that the place is free, or holds what a node that is gone has left.
    fn claim(path: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = path {
            Self::refuse_anothers(path)?;
        }
        Ok(Self {
            path: path.map(Path::to_owned),
            written: false,
        })
    }

    fn refuse_anothers(path: &Path) -> Result<(), Failure> {
        let (name, otherwise) = (path.display(), "name another file with --pidfile");
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).naming(Code::Local, &name),
            Ok(there) if !there.is_file() => {
                return Code::Local
                    .because(format_args!("{name} is there and is no file: {otherwise}"));
            }
            Ok(_) => {}
        }
        let mut start = Vec::new();
        File::open(path)
            .and_then(|file| file.take(PID_BYTES_MAX).read_to_end(&mut start))
            .naming(Code::Local, &name)?;
        let text = String::from_utf8(start).ok();
        let pid = text.and_then(|text| text.trim().parse::<u32>().ok());
        let Some(pid) = pid else {
            return Code::Local.because(format_args!(
                "{name} is there, holds no process id, and was left as it is: {otherwise}"
            ));
        };
        // The number may have gone to another program since.
        let running = program(&pid.to_string());
        if pid != std::process::id() && running.is_some() && running == program("self") {
            return Code::Local.because(format_args!(
                "{name} belongs to process {pid}, a node that is running: {otherwise}"
            ));
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        if let Some(path) = &self.path {
            Self::refuse_anothers(path)?;
            let write = || {
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let mut options = OpenOptions::new();
                // Two nodes that start at once must not both have it.
                let mut file = options.write(true).create_new(true).open(path)?;
                file.write_all(Self::content().as_bytes())
            };
            write().naming(Code::Local, path.display())?;
            self.written = true;
        }
        Ok(())
    }

    fn content() -> String {
        format!("{}\n", std::process::id())
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Another node may have written its own there since.
        if let Some(path) = self.path.as_ref().filter(|_| self.written)
            && fs::read(path).is_ok_and(|content| content == Self::content().as_bytes())
        {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_keeps_descriptors_that_no_client_takes() {
        assert_eq!(connections_of(1 << 20, 10_000), None);
        assert_eq!(connections_of(4096, 10_000), Some(3072));
        assert_eq!(connections_of(1024, 10_000), Some(512));
        assert_eq!(connections_of(1024, 100), None);
    }

    #[test]
    fn the_folder_in_the_greeting_can_be_pasted() {
        assert_eq!(node::error::quoted("/srv/data-1"), "/srv/data-1");
        assert_eq!(node::error::quoted("my data"), "'my data'");
        assert_eq!(node::error::quoted("it's; rm"), "'it'\\''s; rm'");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_240_543_271, "2009-04-24T03:21:11Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds), date);
        }
    }
}
