//! Nodes on their way: read for a checkpoint before it needs them, while it does something else.
//!
//! Invariants:
//! - Who serves the disk's requests asks for nothing here: it would wait for itself.
//! - A node is handed out once, verified. One that could not be read, or is not what its pointer
//!   says, is not handed out: who needs it reads it again and meets the error there.
//! - Every read that was begun ends, wanted or not; its buffer is the read's own until then.
//! - Held are only some of the last [`COMING_MAX`] that were asked for: a checkpoint needs nodes in
//!   the order in which it asks for them, so it has passed all others.

use crate::cache::{CachedNode, place_of, verify_node};
use crate::core::Core;
use crate::io::{Op, Request};
use crate::sync::{Condvar, Mutex};
use dmerkle::format::pointer::Pointer;
use dmerkle::{BlockId, TreeId};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Two branches' worth of what is asked for at once, and the branches ahead of them.
const COMING_MAX: usize = 1024;

/// Nodes that were asked for.
#[derive(Default)]
pub(crate) struct Coming {
    nodes: HashMap<BlockId, (Pointer, Arc<Arrival>)>,
    /// The last that were asked for, in that order.
    asked: VecDeque<BlockId>,
}

/// Where one node arrives.
#[derive(Default)]
struct Arrival {
    node: Mutex<Node>,
    told: Condvar,
}

#[derive(Default)]
enum Node {
    #[default]
    OnItsWay,
    /// None if it did not come.
    Here(Option<Arc<CachedNode>>),
}

/// Tells that a read has ended, at the latest when it is dropped.
struct Ticket(Arc<Arrival>);

impl Ticket {
    fn tell(&self, came: Option<Arc<CachedNode>>) {
        let mut node = self.0.node.lock();
        if matches!(*node, Node::OnItsWay) {
            *node = Node::Here(came);
            self.0.told.notify_all();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(None);
    }
}

impl Coming {
    /// Begins to read the nodes that are neither in the cache nor on their way.
    pub(crate) fn ask(&mut self, core: &Core, tree: TreeId, pointers: &[Pointer]) {
        if !core.pool.may_wait() {
            return;
        }
        let mut requests = Vec::new();
        for pointer in pointers {
            if self.nodes.contains_key(&pointer.block) || core.cache.peek(pointer).is_some() {
                continue;
            }
            let arrival = Arc::new(Arrival::default());
            let ticket = Ticket(Arc::clone(&arrival));
            let named = *pointer;
            let (offset, len) = place_of(&core.identity.geometry, pointer);
            requests.push(Request {
                op: Op::Read { offset, len },
                done: Box::new(move |read| {
                    let node = read.ok().map(|bytes| verify_node(bytes, tree, &named));
                    ticket.tell(node.and_then(Result::ok));
                }),
            });
            self.nodes.insert(pointer.block, (named, arrival));
            self.asked.push_back(pointer.block);
        }
        let passed = self.asked.len().saturating_sub(COMING_MAX);
        for block in self.asked.drain(..passed) {
            self.nodes.remove(&block);
        }
        core.pool.submit_all(requests);
    }

    /// A node that was asked for, once it has come.
    pub(crate) fn take(&mut self, pointer: &Pointer) -> Option<Arc<CachedNode>> {
        let (named, arrival) = self.nodes.remove(&pointer.block)?;
        if named != *pointer {
            return None;
        }
        let mut node = arrival.node.lock();
        loop {
            match &mut *node {
                Node::OnItsWay => arrival.told.wait(&mut node),
                Node::Here(came) => return came.take(),
            }
        }
    }
}
