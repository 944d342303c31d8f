//! A rig and its twin, and the table of both.

use std::time::Instant;

/// The head of the table.
pub const HEAD: &str = "rig          engine            rounds  acknowledged  verdict";

/// What rounds of a rig led to.
pub struct Outcome {
    /// Rounds done.
    pub rounds: u32,
    /// Commits acknowledged as durable.
    pub acknowledged: u64,
    /// The promise that was broken in the last round.
    pub broken: Option<String>,
}

/// Something that is cut off or killed, again and again.
pub trait Rig {
    /// Its name in the table.
    fn name(&self) -> &'static str;

    /// The fault of its twin.
    fn fault(&self) -> &'static str;

    /// What it needs and does not find here.
    fn missing(&self) -> Option<String>;

    /// Runs up to so many rounds, with a fault planted or without, and ends at the first promise
    /// broken. An error is a rig that does not work.
    fn run(&self, rounds: u32, seed: u64, fault: Option<&str>) -> Result<Outcome, String>;
}

/// Runs a rig and its twin and prints a line of each. Whether both were as they must be.
pub fn both(rig: &dyn Rig, rounds: u32, seed: u64) -> bool {
    let mut good = true;
    for fault in [None, Some(rig.fault())] {
        let began = Instant::now();
        let outcome = rig.run(rounds, seed, fault);
        let engine = fault.unwrap_or("as it is");
        let seconds = began.elapsed().as_secs_f64();
        let Outcome {
            rounds,
            acknowledged,
            broken,
        } = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                println!("{:<12} {engine:<17} the rig fails: {error}", rig.name());
                return false;
            }
        };
        let (as_it_must, verdict) = match (fault, &broken) {
            (None, None) if acknowledged == 0 => (false, "NOTHING WAS WRITTEN"),
            (None, None) => (true, "held"),
            (None, Some(_)) => (false, "BROKEN"),
            (Some(_), Some(_)) => (true, "lost, as it must"),
            (Some(_), None) => (false, "LOST NOTHING: the rig proves nothing"),
        };
        println!(
            "{:<12} {engine:<17} {rounds:>6}  {acknowledged:>12}  {verdict} ({seconds:.0} s)",
            rig.name()
        );
        if let Some(broken) = broken {
            let indent = " ".repeat(13);
            if as_it_must {
                let first = broken.lines().next().unwrap_or_default();
                println!("{indent}{first}");
            } else {
                println!("{indent}seed {seed}: {broken}");
            }
        }
        good &= as_it_must;
    }
    good
}
