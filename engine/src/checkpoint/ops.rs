//! What a checkpoint applies to a tree: operations taken from the frozen memtable one by one, or
//! listed by the checkpoint itself.

use crate::medium::Moved;
use crate::memtable::{Drain, Held};
use crate::planted::{self, Bug};
use dmerkle::Sum;
use dmerkle::tree::{Change, Op as TreeOp};

/// A key or a body: in the frozen memtable, or made by the checkpoint.
pub(super) enum Bytes {
    Frozen(Held),
    Own(Vec<u8>),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Frozen(held) => held.as_ref(),
            Self::Own(bytes) => bytes,
        }
    }
}

/// What is to be applied to one tree.
pub(super) enum Ops {
    /// What the frozen memtable has for it, one by one as it is applied, but for the bodies whose
    /// parts were moved.
    Frozen(Drain, Moved),
    Listed(std::vec::IntoIter<TreeOp<Bytes, Bytes>>),
}

impl Iterator for Ops {
    type Item = TreeOp<Bytes, Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let (drain, moved) = match self {
            Self::Frozen(drain, moved) => (drain, moved),
            Self::Listed(ops) => return ops.next(),
        };
        let (place, key, put) = drain.next()?;
        let moved = moved.pop_front_if(|(moved, _)| *moved == place);
        let change = match put {
            Some(body) => {
                Change::Put(moved.map_or(Bytes::Frozen(body), |(_, body)| Bytes::Own(body)))
            }
            None => Change::Delete,
        };
        Some(TreeOp {
            key: Bytes::Frozen(key),
            change,
            // The apply makes it, if the operation changes anything.
            fingerprint: planted::has(Bug::SumWrong).then_some(Sum(1)),
        })
    }
}
