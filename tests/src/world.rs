//! Time and chance of a simulated machine: both follow from a seed.

use crate::rng::Rng;
use engine::world::{Clock, Entropy, World};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that stands still until a test moves it.
#[derive(Debug, Default)]
pub struct SimClock(AtomicU64);

impl SimClock {
    /// Lets `ms` milliseconds pass.
    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct SimEntropy(Mutex<Rng>);

impl Entropy for SimEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}

/// The world of `seed`, and the clock in it that the test moves.
pub fn simulated(seed: u64) -> (World, Arc<SimClock>) {
    let clock = Arc::new(SimClock::default());
    let world = World {
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        entropy: Arc::new(SimEntropy(Mutex::new(Rng::new(seed)))),
    };
    (world, clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_repeats_itself_and_its_clock_obeys() {
        let (a, clock) = simulated(5);
        let (b, _) = simulated(5);
        assert_eq!(a.random(), b.random());
        clock.advance(60_000);
        assert_eq!((a.clock.now_ms(), b.clock.now_ms()), (60_000, 0));
    }
}
