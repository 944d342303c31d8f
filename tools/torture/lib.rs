//! # Random load, random kills, and what a store must hold after them
//!
//! A child process writes to a store, several threads at once, and tells of each commit over a pipe
//! after the commit returned. Whoever started it lets it die at some moment, opens what is left and
//! compares. `dynomite torture` kills with SIGKILL; the rigs of the tests cut off the file system
//! or the disk below it, and plant faults to see that they would be found.
//!
//! ```text
//! chance     random numbers from a seed
//! content    the bytes of a version of a key: nobody has to remember them
//! load       what each thread writes in a round: the parent knows it without being told
//! child      does it, and tells of what returned
//! expected   what the store may hold after that
//! look       reads the store and compares
//! running    the child, its pipe, and its end
//! round      when it dies, and what is compared then
//! ```
//!
//! What is compared after each round, from `expected`:
//! - every acknowledged durable commit is there, byte for byte, and everything before it;
//! - of the buffered ones a prefix, in the order of the log, over all threads;
//! - of a batch all or nothing; nothing that was never written;
//! - counts and fingerprints are those of the entries, computed anew from their bytes;
//! - the store's own verification finds nothing.
#![forbid(unsafe_code)]

mod chance;
pub mod child;
pub mod content;
pub mod expected;
pub mod load;
mod look;
pub mod round;
pub mod running;

pub use chance::Chance;
pub use content::Shape;
pub use expected::{Expected, Held, Tally, Violation};
pub use load::Load;
pub use running::Running;
