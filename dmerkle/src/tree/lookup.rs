//! Finding one entry, a node at a time: the caller brings each node, from memory or from disk,
//! blocking or not.

use crate::error::{Corrupt, Place, Structure};
use crate::format::body::BodyRef;
use crate::format::pointer::Pointer;
use crate::tree::node::Node;

/// The way down to one key, borrowed or owned.
#[derive(Debug, Clone)]
pub struct Lookup<K> {
    key: K,
    /// The level that the next node must have; none before the root.
    level: Option<u8>,
}

/// What a lookup says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'n> {
    /// The next node to bring.
    Need(Pointer),
    /// The entry's body.
    Found(BodyRef<'n>),
    /// The tree has no such entry.
    Absent,
}

impl<K: AsRef<[u8]>> Lookup<K> {
    /// Begins at the root, which the caller brings first (an empty tree has none: absent).
    pub fn new(key: K) -> Self {
        Self { key, level: None }
    }

    /// Goes on in the node that was asked for.
    pub fn step<'n, B: AsRef<[u8]>>(&mut self, node: &'n Node<B>) -> Result<Step<'n>, Corrupt> {
        expect_level(self.level, node)?;
        if node.is_leaf() {
            return Ok(node
                .find(self.key.as_ref())
                .map_or(Step::Absent, Step::Found));
        }
        self.level = Some(node.level() - 1);
        Ok(Step::Need(node.child_for(self.key.as_ref()).1))
    }
}

/// A node reached from a parent is one level below it: so no walk down goes on for ever.
pub(crate) fn expect_level<B: AsRef<[u8]>>(
    level: Option<u8>,
    node: &Node<B>,
) -> Result<(), Corrupt> {
    if level.is_none_or(|level| level == node.level()) {
        return Ok(());
    }
    Err(Corrupt::field(
        Structure::Node,
        "level",
        level.unwrap_or_default().into(),
        node.level().into(),
    )
    .at(Place::Block(node.pointer().block)))
}
