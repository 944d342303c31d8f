//! What a node knows about the versions of an entry: dots, version vectors, contexts, siblings.
//!
//! The original's clocks were wall-clock times under process names that were the same on every
//! node; writes were acknowledged and dropped. Here versions are dotted version vectors (Preguiça,
//! Baquero, Almeida, Fonte, Gonçalves, "Dotted Version Vectors", 2010): the server counts, one
//! entry per node.
//!
//! - A [`Dot`] names one write: the node that took it and that node's count.
//! - A [`VersionVector`] says up to which count the writes of each node are known.
//! - A [`Context`] is a vector as a client carries it from a get to a put; opaque to the client.
//! - [`Versions`] is what the entry's meta holds: a vector, and for each sibling its dot.
//!
//! Invariants:
//! - No two writes of an entry have the same dot, also across a tombstone that was forgotten and
//!   a store that was restored: a count never falls under the time in milliseconds.
//! - Every sibling's dot is covered by its entry's vector.
//! - A put never drops a value that its context does not cover.

mod bytes;
mod context;
mod siblings;
mod vector;

pub use context::{Context, ContextError};
pub use siblings::{Put, Versions, VersionsError};
pub use vector::{Dot, NodeId, VersionVector};
