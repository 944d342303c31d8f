//! What is put on the simulated disk and crashed: the engine, or the toy that proves the harness.

use crate::model::{BatchNo, Change, Contents, Ledger};
use crate::rng::Rng;
use crate::sim_disk::SimDisk;
use crate::world::SimClock;
use engine::world::World;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

/// How an error begins that is a violation whatever was ordered to fail.
pub const BROKEN: &str = "broken promise: ";

/// A store under test, driven by one thread.
pub trait Subject: Sized {
    /// One step of a history.
    type Op: Clone + Debug + Send + Sync;

    /// The kinds of operation.
    const KINDS: &'static [&'static str];
    /// So many of them, from the first on, are the kinds that histories are exhausted over.
    const EXHAUSTED_KINDS: usize = Self::KINDS.len();
    /// The planted bugs. [`Env::bug`] is an index into them.
    const BUGS: &'static [&'static str];
    /// Bytes of a sector of its disk.
    const SECTOR: usize;

    /// An operation of a kind; `rng` chooses keys and values from a few.
    fn op(kind: usize, rng: &mut Rng) -> Self::Op;

    /// Makes an empty store, durably.
    fn create(env: &Env) -> Result<Self, String>;

    /// Opens the store for writing; an error is a refusal.
    fn open(env: &Env) -> Result<Self, String>;

    /// Does one operation and notes in `run` what it issues and what is acknowledged. An error is
    /// a violation unless faults were ordered; after one, every later call is right or an error.
    /// One that begins with [`BROKEN`] is always a violation.
    /// To reopen, it drops and replaces itself, and notes what the new opening shows.
    fn run_op(&mut self, op: &Self::Op, run: &mut Run) -> Result<(), String>;

    /// Whether it takes no writes exactly if what has failed since it was opened demands that.
    fn judge_faults(&mut self, _env: &Env) -> Result<(), String> {
        Ok(())
    }

    /// Whether the operation must succeed on a full disk.
    fn passes_when_full(_op: &Self::Op) -> bool {
        false
    }

    /// Whether this refusal of [`Subject::open`] says that what it names as rotten is needed, and not
    /// that something else, which did not rot, is damaged.
    fn is_honest(_refusal: &str) -> bool {
        true
    }

    /// All contents, each value verified as a reader would get it.
    fn dump(&mut self) -> Result<Contents, String>;

    /// What must hold whatever the contents are: counts and sums recomputed from the entries,
    /// each unit owned exactly once.
    fn audit(&mut self) -> Result<(), String>;

    /// Places whose rot must be noticed, on a disk of `size` bytes; `rng` chooses among too many.
    fn rot_places(size: u64, rng: &mut Rng) -> Vec<RotPlace>;
}

/// Places that go bad together.
#[derive(Debug, Clone)]
pub struct RotPlace {
    /// For the report.
    pub name: String,
    /// The bytes of the file; each range spoils its sectors.
    pub ranges: Vec<Range<u64>>,
    /// Whether it may look like a crash and so take the newest acknowledgement with it: the last
    /// group of a crashed store.
    pub may_lose_last_ack: bool,
    /// Whether the opening refuses or all can be read. Where it does not, a reader may meet it.
    pub at_opening: bool,
}

impl RotPlace {
    /// One range whose rot takes nothing acknowledged with it.
    pub fn new(name: String, range: Range<u64>) -> Self {
        Self {
            name,
            ranges: std::iter::once(range).collect(),
            may_lose_last_ack: false,
            at_opening: true,
        }
    }
}

/// The machine that a subject runs on.
#[derive(Clone)]
pub struct Env {
    /// Its disk.
    pub disk: Arc<SimDisk>,
    /// Its time and chance.
    pub world: World,
    /// The same time, for the test to move.
    pub clock: Arc<SimClock>,
    /// The planted bug to run with.
    pub bug: Option<usize>,
}

impl Env {
    /// A machine with this disk, whose chance follows from `seed`.
    pub fn new(disk: SimDisk, seed: u64, bug: Option<usize>) -> Self {
        Self::with(Arc::new(disk), seed, bug)
    }

    /// A machine with this disk, which somebody else has too.
    pub fn with(disk: Arc<SimDisk>, seed: u64, bug: Option<usize>) -> Self {
        let (world, clock) = crate::world::simulated(seed);
        Self {
            disk,
            world,
            clock,
            bug,
        }
    }
}

/// A machine and the promises that were made on it.
pub struct Run {
    /// The machine.
    pub env: Env,
    /// The promises.
    pub ledger: Ledger,
}

impl Run {
    /// Notes that a batch is about to be committed.
    pub fn issue(&mut self, changes: &[Change]) -> BatchNo {
        self.ledger.issue(self.env.disk.position(), changes)
    }

    /// Notes that a batch, and all before it, was acknowledged as durable.
    pub fn acknowledge(&mut self, batch: BatchNo) {
        self.ledger.acknowledge(self.env.disk.position(), batch);
    }

    /// Notes that the newest batch was refused: nothing of it may ever be seen.
    pub fn retract(&mut self) {
        self.ledger.retract(self.env.disk.position());
    }

    /// Notes that all batches so far were acknowledged as durable (a checkpoint, a clean close).
    pub fn acknowledge_all(&mut self) {
        self.ledger.acknowledge_all(self.env.disk.position());
    }

    /// Notes what an opening shows; an error if it may not.
    pub fn show(&mut self, contents: &Contents) -> Result<(), String> {
        self.ledger.show(self.env.disk.position(), contents)
    }
}
