//! Goal: a store on a real file system that is cut off loses nothing that it acknowledged.
//! Method: a child writes; the file system, or the disk below it, is shut down without a flush;
//! acknowledgements that arrive from then on do not count; then the child is killed, the file system
//! mounted again (its own journal replayed), and the store compared with what it may hold.

use crate::machine::{has_program, no_loop_mounts};
use crate::rig::{Outcome, Rig};
use crate::volume::{Place, Volume};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;
use torture::round::{compare, wait_moment};
use torture::{Chance, Expected, Load, Running, Shape};

/// The longest that a child writes before the cut.
const ROUND_MOST: Duration = Duration::from_millis(350);

/// A file system that is cut off.
pub struct Cut(pub Place);

impl Rig for Cut {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn fault(&self) -> &'static str {
        "DropLogFlush"
    }

    fn missing(&self) -> Option<String> {
        static LOOPS: OnceLock<Option<String>> = OnceLock::new();
        let (maker, _) = self.0.maker();
        if !has_program(maker) {
            return Some(format!("there is no {maker} here"));
        }
        let loops = LOOPS.get_or_init(no_loop_mounts);
        loops
            .as_ref()
            .map(|why| format!("no file system can be mounted from a file: {why}"))
    }

    fn run(&self, rounds: u32, seed: u64, fault: Option<&str>) -> Result<Outcome, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut volume = Volume::make(self.0, folder.path())?;
        let shape = Shape {
            seed,
            workers: 4,
            keys: 150,
            value_bytes_max: 256 << 10,
            log_bytes: 1 << 20,
        };
        let mut expected = Expected::new(shape);
        let mut broken = None;
        let mut round = 0;
        while round < rounds && broken.is_none() {
            let load = Load { shape, round };
            (expected, broken) = one(self.0, &mut volume, &load, fault, expected)?;
            round += 1;
        }
        Ok(Outcome {
            rounds: round,
            acknowledged: expected.tally.durable,
            broken,
        })
    }
}

/// One round; what the store may hold after it, and the promise that was broken.
fn one(
    place: Place,
    volume: &mut Volume,
    load: &Load,
    fault: Option<&str>,
    expected: Expected,
) -> Result<(Expected, Option<String>), String> {
    let told = |error: std::io::Error| error.to_string();
    let store = volume.path().join("store");
    let mut command = Command::new(std::env::current_exe().map_err(told)?);
    command.arg("child").arg(&store);
    command.args([&load.to_argument(), fault.unwrap_or("none")]);
    let running = Running::start(command, load, expected).map_err(told)?;
    let waited = std::thread::scope(|scope| {
        let volume: &Volume = volume;
        let writing_back = scope.spawn(move || {
            let purpose = [u64::from(load.round), 5 << 40];
            let mut chance = Chance::new(load.shape.seed, &purpose);
            std::thread::sleep(Duration::from_millis(u64::from(chance.below(300))));
            volume.write_some_back(&mut chance)
        });
        let waited = wait_moment(load, &running, ROUND_MOST);
        running.stop_counting();
        volume.cut()?;
        // After the cut there is nothing to be written back.
        let _ = writing_back.join();
        Ok::<_, String>(waited)
    })?;
    let ended = running.kill().map_err(told)?;
    volume.come_back()?;
    let mut expected = ended.expected;
    if let Some(trouble) = expected.trouble() {
        return Err(format!("before the cut: {trouble}"));
    }
    let seen = waited.err().or(ended.violation);
    if let Some(violation) = seen {
        return Ok((expected, Some(violation.0)));
    }
    let broken = match compare(load, &store, &mut expected) {
        Ok(compared) if store.exists() && compared.direct != place.is_direct() => {
            return Err(format!(
                "direct I/O is {}, which is not what it tries",
                compared.direct
            ));
        }
        Ok(_) => None,
        Err(violation) => Some(format!("round {}: {violation}", load.round)),
    };
    Ok((expected, broken))
}
