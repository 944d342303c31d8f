//! One history, and a fault at each of its disk operations in turn.
//!
//! Whatever fails, no later call may be wrong; a reader sees what was promised or an error; and
//! once the fault is gone the store opens with all that was acknowledged, however the machine
//! crashed in between.
//!
//! Space that runs out ([`full_disk`]) is no fault: what needs some is refused, and nothing else is
//! affected; when space returns, all goes on.

use crate::check::{Meter, Stop, Thoroughness, Violation, crash_history, guarded, open_and_dump};
use crate::faults::{Class, Fault, FaultPlan, Rule};
use crate::image::Image;
use crate::images::Limits;
use crate::model::Ledger;
use crate::rng::Rng;
use crate::sim_disk::SimDisk;
use crate::subject::{BROKEN, Env, Run, Subject};

/// What fails.
#[derive(Debug, Clone, Copy)]
pub struct Sweep {
    /// The operations that are made to fail in turn.
    pub class: Class,
    /// How.
    pub fault: Fault,
    /// Whether all later ones fail too.
    pub for_ever: bool,
}

impl Sweep {
    /// All that the promise names, once and for ever, of every class alone and of all together: EIO
    /// and EINTR; short reads and writes; ENOSPC of whatever may say so. Of flushes, that is failed
    /// flushes.
    pub fn all() -> Vec<Self> {
        let classes = [
            Class::Any,
            Class::Read,
            Class::Write,
            Class::Flush,
            Class::Allocate,
            Class::Punch,
        ];
        let mut all = Vec::new();
        for class in classes {
            let mut faults = vec![Fault::Eio, Fault::Interrupted];
            if matches!(class, Class::Read | Class::Write) {
                faults.push(Fault::Short);
            }
            if matches!(class, Class::Write | Class::Flush | Class::Allocate) {
                faults.push(Fault::NoSpace);
            }
            for fault in faults {
                all.extend([false, true].map(|for_ever| Self {
                    class,
                    fault,
                    for_ever,
                }));
            }
        }
        all
    }

    /// Runs `ops` once for each operation that can fail, and gives their number.
    pub fn run<S: Subject>(
        self,
        ops: &[S::Op],
        seed: u64,
        bug: Option<usize>,
        meter: &Meter,
    ) -> Result<u64, Stop> {
        let mut nth = 0;
        loop {
            match self.fail_at::<S>(nth, ops, seed, bug, meter) {
                Ok(true) => nth += 1,
                Ok(false) => return Ok(nth),
                Err(Stop::Enough) => return Err(Stop::Enough),
                Err(Stop::Violation(mut violation)) => {
                    let length = if self.for_ever { "for ever" } else { "once" };
                    let (fault, class) = (self.fault, self.class);
                    let what = &violation.what;
                    violation.what = format!("{fault:?} {length} from {class:?} {nth}: {what}");
                    return Err(Stop::Violation(violation));
                }
            }
        }
    }

    fn fail_at<S: Subject>(
        self,
        nth: u64,
        ops: &[S::Op],
        seed: u64,
        bug: Option<usize>,
        meter: &Meter,
    ) -> Result<bool, Stop> {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::recording(Image::empty(S::SECTOR));
        let mut run = Run {
            env: Env::new(disk, rng.number(), bug),
            ledger: Ledger::of_nothing(),
        };
        let disk = run.env.disk.clone();
        let made = guarded(|| {
            let created = run.ledger.create(0);
            let mut subject = S::create(&run.env)?;
            run.acknowledge(created);
            let made = disk.position();
            disk.set_faults(FaultPlan::none().with(Rule {
                class: self.class,
                nth,
                for_ever: self.for_ever,
                fault: self.fault,
            }));
            for op in ops {
                if let Err(what) = subject.run_op(op, &mut run)
                    && (disk.failures() == 0 || what.starts_with(BROKEN))
                {
                    return Err(format!("{op:?}: {what}"));
                }
                subject.judge_faults(&run.env)?;
            }
            disk.set_faults(FaultPlan::none());
            if let Ok(contents) = subject.dump() {
                run.ledger.now().check(&contents)?;
            }
            drop(subject);
            let (_, contents) = open_and_dump::<S>(&run.env)?;
            run.show(&contents)?;
            Ok(made)
        })
        .map_err(|what| {
            let crashes = Vec::new();
            Stop::Violation(Violation { what, crashes })
        })?;
        let how = Thoroughness {
            limits: Limits::NESTED,
            depth: 0,
            rot_one_in: 0,
            rot_image_one_in: 0,
            ..Thoroughness::RANDOM
        };
        crash_history::<S>(&disk.history(), made, &run.ledger, &how, rng, bug, meter)?;
        Ok(disk.failures() > 0)
    }
}

/// Runs `ops` twice on a file system that is full after `bytes` more than a new store takes, gives
/// the space back, and runs them once more. Gives how many operations were refused.
pub fn full_disk<S: Subject>(
    bytes: u64,
    ops: &[S::Op],
    seed: u64,
    bug: Option<usize>,
    meter: &Meter,
) -> Result<u64, Stop> {
    let mut rng = Rng::new(seed);
    let disk = SimDisk::recording(Image::empty(S::SECTOR));
    let mut run = Run {
        env: Env::new(disk, rng.number(), bug),
        ledger: Ledger::of_nothing(),
    };
    let disk = run.env.disk.clone();
    let violation = |what: String| {
        let crashes = Vec::new();
        let what = format!("full {bytes} bytes after its creation: {what}");
        Stop::Violation(Violation { what, crashes })
    };
    let (made, refused) = guarded(|| {
        let created = run.ledger.create(0);
        let mut subject = S::create(&run.env)?;
        run.acknowledge(created);
        let made = disk.position();
        disk.set_capacity(Some(disk.image().size() + bytes));
        let mut refused = 0;
        for op in ops.iter().chain(ops) {
            let done = subject.run_op(op, &mut run);
            refused += u64::from(done.is_err());
            match done {
                Err(what) if what.starts_with(BROKEN) || S::passes_when_full(op) => {
                    return Err(format!("{op:?}: {what}"));
                }
                _ => {}
            }
            subject.judge_faults(&run.env)?;
            same(&mut subject, &run)?;
        }
        if disk.counts().unbacked_writes > 0 {
            return Err("a write might have met the full disk".into());
        }
        disk.set_capacity(None);
        for op in ops {
            let done = subject.run_op(op, &mut run);
            done.map_err(|what| format!("space has returned, and still: {op:?}: {what}"))?;
        }
        same(&mut subject, &run)?;
        Ok((made, refused))
    })
    .map_err(violation)?;
    let how = Thoroughness {
        limits: Limits::NESTED,
        depth: 0,
        rot_one_in: 0,
        rot_image_one_in: 0,
        ..Thoroughness::RANDOM
    };
    crash_history::<S>(&disk.history(), made, &run.ledger, &how, rng, bug, meter)?;
    Ok(refused)
}

/// Whether a reader sees exactly what was not refused.
fn same<S: Subject>(subject: &mut S, run: &Run) -> Result<(), String> {
    let contents = subject.dump()?;
    if run.ledger.newest() != Some(&contents) {
        run.ledger.now().check(&contents)?;
        return Err("a reader does not see the newest batch".into());
    }
    subject.audit()
}
