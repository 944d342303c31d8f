//! The two ends of a round: when the child dies, and what is compared then.

use crate::chance::Chance;
use crate::expected::{Expected, Held, Violation};
use crate::load::Load;
use crate::running::Running;
use engine::{Error, Store};
use std::path::Path;
use std::time::Duration;

/// How long an opening may take before it counts as one that hangs.
const OPENING_MOST: Duration = Duration::from_mins(2);

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compared {
    /// What the store held.
    pub held: Held,
    /// Whether it writes past the page cache.
    pub direct: bool,
}

/// Lets the child write until the moment that the round's seed draws: most often up to `most`
/// after the store was opened, else from the child's start, so that openings die, too.
pub fn wait_moment(load: &Load, running: &Running, most: Duration) -> Result<(), Violation> {
    let purpose = [u64::from(load.round), 3 << 40];
    let mut chance = Chance::new(load.shape.seed, &purpose);
    let most_us = u32::try_from(most.as_micros()).unwrap_or(u32::MAX).max(1);
    if load.round > 0 && chance.percent(15) {
        running.wait_over(Duration::from_micros(u64::from(chance.below(60_000))));
        return Ok(());
    }
    if !running.wait_open(OPENING_MOST) {
        // Over before it opened: whoever asks for its end learns why.
        if running.wait_over(Duration::ZERO) {
            return Ok(());
        }
        let seconds = OPENING_MOST.as_secs();
        return Err(Violation(format!("the store did not open in {seconds} s")));
    }
    running.wait_over(Duration::from_micros(u64::from(chance.below(most_us))));
    Ok(())
}

/// Opens what is left and compares it with what may be there. First for reading, which changes no
/// byte, so that the evidence of a violation stays; in one round of four then for writing, ending
/// in a clean close. Else it is the next child that recovers.
pub fn compare(load: &Load, path: &Path, expected: &mut Expected) -> Result<Compared, Violation> {
    if !path.exists() {
        let held = expected.settle(None)?;
        return Ok(Compared {
            held,
            direct: false,
        });
    }
    let options = load.options();
    let refused = |doing: &str, error: &Error| Violation(format!("{doing}: {error}"));
    let store = Store::open_read_only(path, &options)
        .map_err(|error| refused("opening the store to read it", &error))?;
    let held = expected.settle(Some(&store))?;
    let direct = store.stats().direct_io;
    drop(store);
    let purpose = [u64::from(load.round), 4 << 40];
    if Chance::new(load.shape.seed, &purpose).percent(25) {
        let store =
            Store::open(path, &options).map_err(|error| refused("opening the store", &error))?;
        expected.settle(Some(&store))?;
        let closed = store.close();
        closed.map_err(|error| refused("closing the store", &error))?;
    }
    Ok(Compared { held, direct })
}
