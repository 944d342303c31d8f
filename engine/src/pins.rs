//! What snapshots hold of the past, and when they must let go of it.
//!
//! Invariants:
//! - Who reads holds a [`Held`] for as long as the read goes on; a snapshot that expires meanwhile
//!   ends with that read, and the next one is refused.
//! - What was handed out (an entry, a buffer) holds its state by itself and never expires.
//! - A snapshot under an [`Exempt`] does not expire.

use crate::core::Core;
use crate::error::Error;
use crate::memtable::Memtable;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::view::View;
use dmerkle::{Generation, Lsn};
use std::sync::{Arc, Weak};

/// A view whose LSN is registered, so that no version that it shows leaves a memtable.
pub(crate) struct Held {
    pub(crate) view: View,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.view.core.registry.release(self.view.at);
    }
}

/// A snapshot's hold, shared by its clones.
pub(crate) struct Pin {
    pub(crate) at: Lsn,
    since_ms: u64,
    exempt: AtomicU32,
    /// None once it has expired.
    held: Mutex<Option<Arc<Held>>>,
}

impl Pin {
    /// What to read, for the time of one read.
    pub(crate) fn held(&self) -> Result<Arc<Held>, Error> {
        self.held.lock().clone().ok_or(Error::SnapshotExpired)
    }

    fn is_exempt(&self) -> bool {
        self.exempt.load(Ordering::Acquire) > 0
    }
}

/// Keeps a snapshot from expiring: for backup, scrub and diff.
pub(crate) struct Exempt(Arc<Pin>);

impl Exempt {
    pub(crate) fn new(pin: &Arc<Pin>) -> Self {
        pin.exempt.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(pin))
    }
}

impl Drop for Exempt {
    fn drop(&mut self) {
        self.0.exempt.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All pins of a store, oldest first.
#[derive(Default)]
pub(crate) struct Pins {
    list: Mutex<Vec<Weak<Pin>>>,
    expired: AtomicU64,
}

/// What pins hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pinned {
    pub(crate) exempt: u64,
    pub(crate) expired: u64,
    /// Bytes of space and memory that only readers of older states keep.
    pub(crate) bytes: u64,
    pub(crate) oldest_ms: u64,
}

/// Memtables that the current state does not hold, each counted once.
#[derive(Default)]
struct OldMemtables(Vec<*const Memtable>);

impl OldMemtables {
    fn bytes(&mut self, core: &Core, held: &Held) -> u64 {
        let now = core.state.load();
        let mut bytes = 0;
        for table in held.view.state.memtables() {
            let address = Arc::as_ptr(table);
            let is_current = now.memtables().any(|other| Arc::ptr_eq(table, other));
            if !is_current && !self.0.contains(&address) {
                self.0.push(address);
                bytes += table.bytes();
            }
        }
        bytes
    }
}

impl Core {
    /// Takes a pin of the newest state.
    pub(crate) fn pin(self: &Arc<Self>) -> Arc<Pin> {
        let (state, at) = self.consistent(true);
        let view = View {
            core: Arc::clone(self),
            state,
            at,
        };
        let pin = Arc::new(Pin {
            at,
            since_ms: self.world.clock.now_ms(),
            exempt: AtomicU32::new(0),
            held: Mutex::new(Some(Arc::new(Held { view }))),
        });
        let mut list = self.pins.list.lock();
        if list.len() == list.capacity() {
            list.retain(|pin| pin.strong_count() > 0);
        }
        list.push(Arc::downgrade(&pin));
        pin
    }

    /// The pins that are held and what they hold, oldest first.
    fn live_pins(&self) -> Vec<(Arc<Pin>, Arc<Held>)> {
        let list = self.pins.list.lock();
        list.iter()
            .filter_map(Weak::upgrade)
            .filter_map(|pin| pin.held().ok().map(|held| (pin, held)))
            .collect()
    }

    /// Bytes that every checkpoint has retired and only readers keep, oldest first.
    fn retired_and_stamped(&self) -> Vec<(Generation, u64)> {
        let stamped = self.queue.lock().stamped;
        let unit = self.identity.geometry.unit();
        let retired = self.retired.lock();
        retired
            .iter()
            .filter(|retired| retired.generation <= stamped)
            .map(|retired| {
                let units: u64 = retired.runs.iter().map(|run| u64::from(run.units)).sum();
                (retired.generation, units * unit)
            })
            .collect()
    }

    /// Ends the snapshots that are older or hold more than the options allow, oldest first.
    pub(crate) fn expire_snapshots(&self) {
        let pins = self.live_pins();
        if pins.is_empty() {
            return;
        }
        let now_ms = self.world.clock.now_ms();
        let retired = self.retired_and_stamped();
        let mut old = OldMemtables::default();
        let mut memory = 0;
        // From the newest on: what is held if this one and all newer ones stay.
        for (pin, held) in pins.iter().rev().filter(|(pin, _)| !pin.is_exempt()) {
            let generation = held.view.state.base.generation;
            memory += old.bytes(self, held);
            let space: u64 = retired
                .iter()
                .filter(|(retired, _)| *retired > generation)
                .map(|(_, bytes)| bytes)
                .sum();
            let too_old = now_ms.saturating_sub(pin.since_ms) > self.options.snapshot_ms_max;
            if too_old || space + memory > self.options.snapshot_bytes_max {
                *pin.held.lock() = None;
                self.pins.expired.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn pinned(&self) -> Pinned {
        let pins = self.live_pins();
        let mut old = OldMemtables::default();
        let memory: u64 = pins.iter().map(|(_, held)| old.bytes(self, held)).sum();
        let space: u64 = self.retired_and_stamped().iter().map(|(_, one)| one).sum();
        let oldest = pins.iter().map(|(pin, _)| pin.since_ms).min();
        Pinned {
            exempt: pins.iter().filter(|(pin, _)| pin.is_exempt()).count() as u64,
            expired: self.pins.expired.load(Ordering::Relaxed),
            bytes: memory + space,
            oldest_ms: oldest.map_or(0, |at| self.world.clock.now_ms().saturating_sub(at)),
        }
    }
}
