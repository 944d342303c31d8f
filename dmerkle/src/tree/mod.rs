//! The tree: nodes, and what is done with them in steps that ask for nodes and never fetch them.

mod branch;
mod leaf;
pub mod lookup;
pub mod node;

pub use branch::Root;
pub use lookup::{Lookup, Step};
pub use node::{KeyRef, Node};
