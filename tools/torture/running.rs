//! A child that runs, the pipe that it tells over, and its end.
//!
//! Invariant: lines are heard in the order in which they came, by one thread; what comes after
//! [`Running::stop_counting`] returned raises no claim.

use crate::expected::{Expected, Violation};
use crate::load::Load;
use parking_lot::{Condvar, Mutex};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;

struct Heard {
    expected: Expected,
    counts: bool,
    violation: Option<Violation>,
    over: bool,
}

struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
}

/// A child that writes.
pub struct Running {
    child: Child,
    reader: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What is known once a child is dead.
pub struct Ended {
    /// What the store may hold.
    pub expected: Expected,
    /// What was seen to be wrong before it died.
    pub violation: Option<Violation>,
}

impl Running {
    /// Starts a child: a command that calls [`crate::child::run`] with this load and its standard
    /// output. It is in a process group of its own, so that Ctrl-C is ours alone.
    pub fn start(mut command: Command, load: &Load, mut expected: Expected) -> io::Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        expected.begin(load);
        let shared = Arc::new(Shared {
            heard: Mutex::new(Heard {
                expected,
                counts: true,
                violation: None,
                over: false,
            }),
            changed: Condvar::new(),
        });
        let reader = child.stdout.take().map(|output| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.listen(output))
        });
        Ok(Self {
            child,
            reader,
            shared,
        })
    }

    /// Waits until the store is open, the child is over, or `most` has passed.
    pub fn wait_open(&self, most: Duration) -> bool {
        self.wait(most, |heard| heard.expected.is_open())
    }

    /// Waits until so many commits of all rounds are acknowledged, or as above.
    pub fn wait_acknowledged(&self, commits: u64, most: Duration) -> bool {
        self.wait(most, |heard| {
            heard.expected.tally.durable + heard.expected.tally.buffered >= commits
        })
    }

    /// Lets the child write on, for so long or until it is over.
    pub fn wait_over(&self, most: Duration) -> bool {
        self.wait(most, |heard| heard.over)
    }

    fn wait(&self, most: Duration, holds: impl Fn(&Heard) -> bool) -> bool {
        let until = Instant::now() + most;
        let mut heard = self.shared.heard.lock();
        loop {
            if holds(&heard) {
                return true;
            }
            let waited = self.shared.changed.wait_until(&mut heard, until);
            if heard.over || waited.timed_out() {
                return holds(&heard);
            }
        }
    }

    /// Looks at what is known so far.
    pub fn peek<T>(&self, look: impl FnOnce(&Expected) -> T) -> T {
        look(&self.shared.heard.lock().expected)
    }

    /// From here on an acknowledgement raises no claim: the disk is about to be cut off.
    pub fn stop_counting(&self) {
        self.shared.heard.lock().counts = false;
    }

    /// SIGKILL, and what is known then.
    pub fn kill(mut self) -> io::Result<Ended> {
        let ended_before = self.child.try_wait()?;
        self.child.kill()?;
        let status = self.child.wait()?;
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let shared = Arc::clone(&self.shared);
        drop(self);
        let Some(shared) = Arc::into_inner(shared) else {
            return Err(io::Error::other("the reader of the pipe still runs"));
        };
        let Heard {
            expected,
            mut violation,
            ..
        } = shared.heard.into_inner();
        if !died_as_it_should(ended_before.unwrap_or(status)) {
            let ended = Violation(format!("the child ended by itself: {status}"));
            violation = violation.or(Some(ended));
        }
        Ok(Ended {
            expected,
            violation,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// By our hand, or because its disk was gone.
fn died_as_it_should(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(SIGKILL)
}

impl Shared {
    /// Hears every whole line. The last one may be cut short by the child's death.
    fn listen(&self, output: impl Read) {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while let Ok(1..) = lines.read_until(b'\n', &mut line) {
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            let text = String::from_utf8_lossy(text);
            let mut heard = self.heard.lock();
            let counts = heard.counts;
            if let Err(violation) = heard.expected.hear(&text, counts) {
                heard.violation.get_or_insert(violation);
            }
            drop(heard);
            self.changed.notify_all();
            line.clear();
        }
        self.heard.lock().over = true;
        self.changed.notify_all();
    }
}
