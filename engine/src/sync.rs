//! What the engine's threads meet at: locks, wake-ups, counters, the published state, the node
//! cache, threads.
//!
//! In unit tests built with `--cfg shuttle` all of it is that of [shuttle], which runs the threads
//! of a test one at a time and chooses at each of these calls who goes on: so a test tries
//! thousands of schedules, each of them repeatable (`sync/tests.rs`). The engine's own code
//! is the same in both builds; only this module differs.
//!
//! Not scheduled are counters that decide nothing, and what meets the kernel in `io`, rings and
//! lanes: of these the schedules say nothing.
//!
//! Four differences are wanted. A wait with a time limit never ends by itself there: a wake-up that
//! is forgotten is a deadlock, however soon a timer would have hidden it. A published state is
//! loaded and stored at points of the schedule, as if it were a lock. And the node cache, a
//! library's, is a list with a point at each look: what is tried is what we do around it, with
//! nodes that leave at the worst moments. Hashes have no seed, so that a schedule repeats.
//!
//! [shuttle]: https://github.com/awslabs/shuttle

#[cfg(not(all(test, shuttle)))]
mod machine {
    pub(crate) use arc_swap::ArcSwap;
    pub(crate) use foldhash::fast::RandomState as HashState;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use quick_cache::sync::Cache;
    pub(crate) use std::sync::OnceLock;
    pub(crate) use std::sync::atomic;
    pub(crate) use std::thread;
}
#[cfg(not(all(test, shuttle)))]
pub(crate) use machine::*;

#[cfg(all(test, shuttle))]
mod scheduled;
#[cfg(all(test, shuttle))]
pub(crate) use scheduled::*;

#[cfg(all(test, shuttle))]
mod tests;
