//! What stands below the tree: where nodes come from and where new ones go.

use std::sync::Arc;

use crate::error::Corrupt;
use crate::format::pointer::Pointer;
use crate::tree::node::Node;
use crate::types::{BlockId, Order, Run, TreeId};

/// Brings nodes.
pub trait Source {
    /// What a node's bytes are held in.
    type Bytes: AsRef<[u8]>;
    /// Why a node did not come.
    type Error: From<Corrupt>;

    /// The node that `pointer` names in `tree`, decoded.
    fn node(
        &mut self,
        tree: TreeId,
        pointer: &Pointer,
    ) -> Result<Arc<Node<Self::Bytes>>, Self::Error>;

    /// Says that these nodes will be asked for soon.
    fn prefetch(&mut self, tree: TreeId, pointers: &[Pointer]) {
        let _ = (tree, pointers);
    }
}

/// Brings nodes, and takes the new ones of a checkpoint.
pub trait Ground: Source {
    /// A free block for a node.
    fn place(&mut self, order: Order) -> Result<BlockId, Self::Error>;

    /// Takes the bytes of the new node of a level that `pointer` names, a whole block. Children
    /// come before their parents.
    fn write(&mut self, level: u8, pointer: &Pointer, bytes: Vec<u8>) -> Result<(), Self::Error>;

    /// The new tree does not name this node any more.
    fn retire_node(&mut self, pointer: &Pointer);

    /// The new tree does not name this extent any more.
    fn retire_extent(&mut self, run: Run);
}
