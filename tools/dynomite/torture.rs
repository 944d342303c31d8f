//! `dynomite torture`: what a sceptical user runs on a disk of theirs.
//!
//! Invariants:
//! - In the folder only the files named here are made, written or removed, and only in one that
//!   was empty or bears our mark.
//! - A folder that holds the evidence of a violation is never used again.
//! - No child outlives this process: its pipe is gone then, and it ends at the next commit.

use std::fs::{self, File, TryLockError};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use torture::round::{Compared, compare, wait_moment};
use torture::running::Ended;
use torture::{Expected, Load, Running, Shape, Tally, Violation};

use crate::arguments::{Torture, TortureChild};
use crate::outcome::{Code, Failure, Naming, Outcome, say, say_json};
use crate::status::amount;

const STORE: &str = "torture.store";
const MARK: &str = "torture.txt";
const EVIDENCE: &str = "violation.txt";
/// What a creation that was killed leaves; the engine removes it at the next one.
const UNFINISHED: &str = "torture.store.unfinished";

/// The first line of the mark.
const MARKED: &str = "This folder belongs to `dynomite torture`, which removes its files again.\n";

/// Small, so that it laps and checkpoints come often.
const LOG_BYTES: u64 = 2 << 20;
const VALUE_BYTES_MAX: u32 = 1 << 20;
/// The longest that a child writes.
const ROUND_MOST: Duration = Duration::from_millis(1500);
/// Where nobody looks at a terminal, a line of progress comes so often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// `dynomite torture-child`: the process that is killed.
pub fn child(arguments: &TortureChild) -> Outcome {
    let Some(load) = Load::from_argument(&arguments.load) else {
        return Code::Usage.because("`dynomite torture` starts this itself");
    };
    let lines = rustix::stdio::stdout().try_clone_to_owned();
    let lines = File::from(lines.naming(Code::Local, "standard output")?);
    // Whoever reads the lines may be gone: then this has no purpose.
    let _ = torture::child::run(&load, &arguments.store, &lines);
    Ok(Code::Done)
}

/// `dynomite torture`
pub fn torture(arguments: &Torture) -> Outcome {
    let drawn = SystemTime::now().duration_since(UNIX_EPOCH);
    let shape = Shape {
        seed: arguments
            .seed
            .unwrap_or(drawn.map_or(1, |now| now.as_secs())),
        workers: arguments.threads,
        keys: arguments.keys,
        value_bytes_max: VALUE_BYTES_MAX,
        log_bytes: LOG_BYTES,
    };
    let folder = Folder::take(&arguments.directory)?;
    let stop = listen_for_stop()?;
    let mut run = Run {
        shape,
        folder,
        program: std::env::current_exe().naming(Code::Local, "this program, to start it again")?,
        began: Instant::now(),
        round: 0,
        tally: Tally::default(),
        last: Compared::default(),
        progress: Progress::new(),
    };
    let outcome = run.rounds(arguments, &stop);
    run.progress.end();
    let violation = match outcome {
        Ok(()) => None,
        Err(Stopped::Violation(violation)) => Some(violation),
        Err(Stopped::Failure(failure)) => return Err(failure),
    };
    run.verdict(arguments.json, violation.as_ref())
}

/// Set at the first Ctrl-C or SIGTERM; the second ends this process at once.
fn listen_for_stop() -> Result<Arc<AtomicBool>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};

    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .naming(Code::Local, "the thread that hears Ctrl-C")?;
    let set = Arc::clone(&stop);
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt()).naming(Code::Local, "Ctrl-C")?,
            signal(SignalKind::terminate()).naming(Code::Local, "SIGTERM")?,
        )
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            for again in [false, true] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if again {
                    std::process::exit(130);
                }
                set.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(stop)
}

/// Why a run ends before its time.
enum Stopped {
    Violation(Violation),
    Failure(Failure),
}

impl From<Violation> for Stopped {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

struct Run {
    shape: Shape,
    folder: Folder,
    program: PathBuf,
    began: Instant,
    round: u32,
    tally: Tally,
    last: Compared,
    progress: Progress,
}

impl Run {
    fn rounds(&mut self, arguments: &Torture, stop: &AtomicBool) -> Result<(), Stopped> {
        let most = arguments
            .minutes
            .map(|minutes| Duration::from_secs(u64::from(minutes) * 60));
        let mut expected = Expected::new(self.shape);
        loop {
            let enough = arguments.rounds.is_some_and(|rounds| self.round >= rounds)
                || most.is_some_and(|most| self.began.elapsed() >= most)
                || stop.load(Ordering::Relaxed);
            if enough {
                return Ok(());
            }
            expected = self.round(expected)?;
            self.round += 1;
            let line = self.line();
            self.progress.show(&line);
        }
    }

    /// One child from its start to its end, and what is left after it.
    fn round(&mut self, expected: Expected) -> Result<Expected, Stopped> {
        let load = Load {
            shape: self.shape,
            round: self.round,
        };
        let store = self.folder.path.join(STORE);
        let mut command = Command::new(&self.program);
        command
            .arg("torture-child")
            .arg(&store)
            .arg(load.to_argument());
        let starting = "a process that writes";
        let running = Running::start(command, &load, expected).naming(Code::Local, starting)?;
        let waited = wait_moment(&load, &running, ROUND_MOST);
        let ended = running
            .kill()
            .naming(Code::Local, "killing the process that writes")?;
        let Ended {
            mut expected,
            violation,
        } = ended;
        self.tally = expected.tally;
        waited?;
        if let Some(violation) = violation {
            return Err(violation.into());
        }
        self.last = compare(&load, &store, &mut expected)?;
        self.tally = expected.tally;
        if let Some(trouble) = expected.trouble() {
            let said = format!("the store could not be written to: {trouble}");
            return Err(Code::Refused.failure(said).into());
        }
        Ok(expected)
    }

    fn line(&self) -> String {
        format!(
            "{} rounds: {} durable and {} buffered writes acknowledged, {}; {} entries of {} \
             verified",
            self.round,
            self.tally.durable,
            self.tally.buffered,
            amount(self.tally.bytes),
            self.last.held.entries,
            amount(self.last.held.bytes)
        )
    }

    fn verdict(&self, as_json: bool, violation: Option<&Violation>) -> Outcome {
        let seed = self.shape.seed;
        if let Some(violation) = violation {
            self.folder.keep(&self.evidence(violation))?;
        } else {
            self.folder.remove_store()?;
            self.folder.remove_mark()?;
        }
        let evidence = self.folder.path.join(EVIDENCE);
        if as_json {
            say_json(&json!({
                "held": violation.is_none(),
                "rounds": self.round,
                "seconds": self.began.elapsed().as_secs_f64(),
                "durable": self.tally.durable,
                "buffered": self.tally.buffered,
                "buffered_lost": self.tally.buffered_lost,
                "bytes": self.tally.bytes,
                "refused_for_space": self.tally.full,
                "entries": self.last.held.entries,
                "direct_io": self.last.direct,
                "seed": seed,
                "violation": violation.map(ToString::to_string),
                "evidence": violation.map(|_| evidence.display().to_string()),
            }))?;
        } else if violation.is_none() {
            let way = match (self.round, self.last.direct) {
                (0, _) => "",
                (_, true) => ", written past the page cache",
                (_, false) => {
                    ", written through the page cache (this file system allows no other way)"
                }
            };
            let kills = match self.round {
                1 => "1 kill".to_owned(),
                rounds => format!("{rounds} kills"),
            };
            say(format_args!(
                "held: {kills} in {:.0} s; {} durable writes acknowledged and none lost, {} \
                 buffered ones of which the kills took {}; {}{way}; seed {seed}",
                self.began.elapsed().as_secs_f64(),
                self.tally.durable,
                self.tally.buffered,
                self.tally.buffered_lost,
                amount(self.tally.bytes),
            ))?;
        }
        match violation {
            None => Ok(Code::Done),
            Some(_) if as_json => Ok(Code::Broken),
            Some(violation) => Code::Broken.because(format_args!(
                "BROKEN in round {}, seed {seed}: {violation}\nthe store and {} are kept",
                self.round,
                evidence.display()
            )),
        }
    }

    /// What is needed to look into it.
    fn evidence(&self, violation: &Violation) -> String {
        let Shape {
            seed,
            workers,
            keys,
            value_bytes_max,
            log_bytes,
        } = self.shape;
        format!(
            "{violation}\n\n\
             program: dynomite {}\n\
             round {} (from 0), seed {seed}, {workers} threads with {keys} keys each, values up to \
             {value_bytes_max} bytes, log of {log_bytes} bytes\n\
             so far: {}\n\
             {STORE} is as it was found after the kill, unless the words above say that it was \
             opened for writing: comparing reads only.\n",
            env!("CARGO_PKG_VERSION"),
            self.round,
            self.line()
        )
    }
}

/// The folder, ours for as long as the mark is locked.
struct Folder {
    path: PathBuf,
    _mark: File,
}

impl Folder {
    fn take(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).naming(Code::Refused, path.display())?;
        if path.join(EVIDENCE).exists() {
            return Code::Refused.because(format_args!(
                "{} keeps the evidence of a violation: take another folder",
                path.display()
            ));
        }
        let mut files = fs::read_dir(path).naming(Code::Refused, path.display())?;
        let is_empty = files.next().is_none();
        let mark = path.join(MARK);
        let mut options = File::options();
        options.read(true).write(true).create_new(is_empty);
        let Ok(mut file) = options.open(&mark) else {
            return Code::Refused.because(not_ours(path));
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Code::Refused.because(format_args!(
                    "another `dynomite torture` uses {}",
                    path.display()
                ));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).naming(Code::Local, mark.display());
            }
        }
        if is_empty {
            file.write_all(MARKED.as_bytes())
                .naming(Code::Local, mark.display())?;
        } else {
            let mut content = String::new();
            let read = (&file).take(1000).read_to_string(&mut content);
            if read.is_err() || content != MARKED {
                return Code::Refused.because(not_ours(path));
            }
        }
        let folder = Self {
            path: path.to_owned(),
            _mark: file,
        };
        folder.remove_store()?;
        Ok(folder)
    }

    fn remove_store(&self) -> Result<(), Failure> {
        [STORE, UNFINISHED]
            .into_iter()
            .try_for_each(|name| self.remove(name))
    }

    fn remove_mark(&self) -> Result<(), Failure> {
        self.remove(MARK)
    }

    fn remove(&self, name: &str) -> Result<(), Failure> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).naming(Code::Local, path.display())
            }
            _ => Ok(()),
        }
    }

    fn keep(&self, evidence: &str) -> Result<(), Failure> {
        let path = self.path.join(EVIDENCE);
        let write = || {
            let mut file = File::create_new(&path)?;
            file.write_all(evidence.as_bytes())?;
            file.sync_all()
        };
        write().naming(Code::Local, path.display())
    }
}

fn not_ours(path: &Path) -> String {
    format!(
        "{} is not empty and no earlier `dynomite torture` made it: name an empty folder, or a new \
         one",
        path.display()
    )
}

/// A line that moves on a terminal, and one now and then elsewhere.
struct Progress {
    bar: Option<ProgressBar>,
    said: Instant,
}

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed_precise}  {msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        Self {
            bar,
            said: Instant::now(),
        }
    }

    fn show(&mut self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.to_owned());
            bar.tick();
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            // Who does not want to see it has closed it.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
