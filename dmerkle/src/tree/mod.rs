//! The tree: nodes, and what is done with them in steps that ask for nodes and never fetch them.

pub mod apply;
mod branch;
mod build;
pub mod cursor;
mod cut;
mod entries;
mod ground;
mod leaf;
pub mod lookup;
pub mod node;
mod pack;
mod pending;
pub mod range;
#[cfg(test)]
pub(crate) mod testing;

pub use apply::{Applied, Apply, Change, Op, Progress};
pub use branch::Root;
pub use build::build;
pub use cursor::{Cursor, Direction, Position};
pub use ground::{Ground, Source};
pub use lookup::{Lookup, Step};
pub use node::{KeyRef, Node};
pub use pack::Settings;
pub use range::{Range, RangeSummary, Split};
