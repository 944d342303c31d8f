//! Giving free space back to the file system, piece by piece.
//!
//! While the store is in use a hole costs twice: the punch, and the `fallocate` and the slower write
//! when the space is wanted again. So only long free runs go, and only what was written since the
//! opening. At rest the shorter ones go too (of values with a median of 60 KB, every second byte that is
//! deleted lies in a run below 256 KiB), and what was free at the opening and may be backed or not;
//! and if that leaves more than may be kept, what rewritten nodes left in their clusters.
//!
//! Invariants:
//! - Only free units are punched, claimed meanwhile, so that nobody writes there.
//! - As much stays backed as the pending operations were promised.
//! - What was looked at in vain is not looked at again before something changes.

use crate::alloc::{Bound, Claim, Punchable};
use crate::core::Core;
use crate::error::Error;
use crate::io::Disk;
use crate::space::{Inner, Space, table_bytes};
use dmerkle::geometry::SUPERBLOCK_AREA_BYTES;
use std::sync::atomic::Ordering;

/// Runs of free space that are worth a hole while the store is in use.
pub(crate) const BUSY_BYTES_MIN: u64 = 256 << 10;

/// Runs that are worth one at rest: the largest go first, and most stores keep the short ones within
/// what they may keep. With half of all values deleted 64 KiB would leave a seventh more than is live.
pub(crate) const REST_BYTES_MIN: u64 = 16 << 10;

/// How much is punched at once: whoever writes waits so long.
const PIECE_BYTES_MAX: u64 = 1 << 20;

/// Free space that stays while the store is in use: a share of what is live.
const BUSY_KEPT_SHARE: u64 = 25;

/// And at rest, where with what whole units cost it must be within 3 % after a load.
const REST_KEPT_SHARE: u64 = 100;

/// Pieces that a close gives back: it should not take long.
const CLOSING_PIECES: u32 = 256;

/// Whether anybody may want the space again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thrift {
    /// The store is in use.
    Busy,
    /// Nobody has written for a while.
    AtRest,
}

/// Where the giving back has come to.
#[derive(Debug)]
pub(crate) struct Sweep {
    /// What it looks for.
    wanted: Option<(Thrift, u32)>,
    /// Which pass it is in.
    pass: usize,
    /// What this pass has not looked at yet.
    below: Bound,
    /// Free space came since the first pass began.
    stale: bool,
    /// Clusters have ended for it.
    dissolved: bool,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            wanted: None,
            pass: 0,
            below: Bound::TOP,
            stale: false,
            dissolved: false,
        }
    }
}

impl Sweep {
    /// Says that there may be more to give back than was seen.
    pub(crate) fn news(&mut self) {
        self.stale = true;
    }

    fn passes(thrift: Thrift) -> &'static [Punchable] {
        match thrift {
            Thrift::Busy => &[Punchable::Backed],
            // What is doubtful first: it would have to be allocated again in any case.
            Thrift::AtRest => &[Punchable::Doubtful, Punchable::Backed],
        }
    }
}

impl Space {
    /// Punches one piece out of a free run of `units_min` or more, at most `units_max` of it, while
    /// more than `kept` units are free that have space, and more than `promised` of those that are
    /// known to. Returns the bytes given back; none if there is nothing more.
    pub(crate) fn punch(
        &self,
        disk: &dyn Disk,
        thrift: Thrift,
        (units_min, units_max): (u32, u32),
        kept: u64,
        promised: impl Fn() -> u64,
    ) -> Result<u64, Error> {
        let end = disk.size().map_err(Error::io("asking for its length"))?;
        let run = loop {
            let mut inner = self.inner.lock();
            let enough = match thrift {
                Thrift::Busy => inner.allocator.backed_free_units() <= kept,
                Thrift::AtRest => self.held_free_units(&inner, disk)? <= kept,
            };
            if enough {
                return Ok(0);
            }
            // Asked under the lock: who asks for space has said before what it will need.
            match inner.next_piece(thrift, units_min, units_max, promised()) {
                // Behind the file's end there is nothing: a region that was only begun.
                Claim::Piece(run, _) if self.geometry.offset_of(run.start) >= end => {
                    inner.allocator.punched(run);
                }
                Claim::Piece(run, _) => break run,
                // Others may have the lock.
                Claim::Below(_) => {}
                Claim::None => return Ok(0),
            }
        };
        let offset = self.geometry.offset_of(run.start);
        let bytes = (u64::from(run.units) * self.geometry.unit()).min(end - offset);
        let punched = disk
            .punch(offset, bytes)
            .map_err(Error::io("giving space back"));
        let mut inner = self.inner.lock();
        match punched {
            Ok(()) => {
                inner.allocator.punched(run);
                Ok(bytes)
            }
            Err(error) => {
                inner.allocator.free(run);
                Err(error)
            }
        }
    }

    /// Units that have space of the file and that nobody uses, by what the file system says: at
    /// the opening nobody else knows.
    fn held_free_units(&self, inner: &Inner, disk: &dyn Disk) -> Result<u64, Error> {
        let held = disk.held().map_err(Error::io("asking for its space"))?;
        let geometry = &self.geometry;
        let regions = inner.allocator.region_count();
        let maps = u64::from(regions) * 2 * geometry.map_bytes();
        let tables = 2 * table_bytes(geometry, regions);
        let fixed = SUPERBLOCK_AREA_BYTES + geometry.ring_bytes + tables + maps;
        let data = u64::from(regions)
            * u64::from(geometry.region_units - geometry.region_reserved_units());
        let used = data.saturating_sub(inner.allocator.free_units());
        Ok((held.saturating_sub(fixed) / geometry.unit()).saturating_sub(used))
    }
}

impl Inner {
    /// The next piece of the sweep.
    fn next_piece(
        &mut self,
        thrift: Thrift,
        units_min: u32,
        units_max: u32,
        promised: u64,
    ) -> Claim {
        let sweep = &mut self.sweep;
        let passes = Sweep::passes(thrift);
        let wanted = Some((thrift, units_min));
        if sweep.wanted != wanted || (sweep.pass == passes.len() && sweep.stale) {
            *sweep = Sweep {
                wanted,
                ..Sweep::default()
            };
        }
        let Some(kind) = passes.get(sweep.pass).copied() else {
            let last = thrift == Thrift::AtRest && !std::mem::replace(&mut sweep.dissolved, true);
            if last && self.allocator.dissolve_clusters() {
                sweep.pass = 0;
                return Claim::Below(Bound::TOP);
            }
            return Claim::None;
        };
        let spare = self.allocator.backed_free_units().saturating_sub(promised);
        let most = match kind {
            Punchable::Backed => units_max.min(u32::try_from(spare).unwrap_or(u32::MAX)),
            Punchable::Doubtful => units_max,
        };
        let claim = match most {
            0 => Claim::None,
            most => self
                .allocator
                .claim_punchable(kind, sweep.below, units_min, most),
        };
        match claim {
            Claim::Piece(_, below) | Claim::Below(below) => sweep.below = below,
            Claim::None => {
                sweep.pass += 1;
                sweep.below = Bound::TOP;
                return Claim::Below(Bound::TOP);
            }
        }
        claim
    }
}

impl Core {
    /// Punches one piece of free space. What the sweep has not come to yet is not lost: it says
    /// zero only when nothing is left that is worth it.
    pub(crate) fn punch_some(&self, thrift: Thrift, bytes_min: u64) -> Result<u64, Error> {
        self.refuse_writes()?;
        let unit = self.identity.geometry.unit();
        let units = |bytes: u64| u32::try_from((bytes / unit).max(1)).expect("1 MiB of units");
        let share = match thrift {
            Thrift::Busy => BUSY_KEPT_SHARE,
            Thrift::AtRest => REST_KEPT_SHARE,
        };
        let kept = self.space.usage().allocated_bytes / unit / share;
        let bytes = self.space.punch(
            self.disk.as_ref(),
            thrift,
            (units(bytes_min), units(PIECE_BYTES_MAX)),
            kept,
            || self.reserve_units(),
        )?;
        self.counters
            .punched_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// The last checkpoint is done, and nobody writes any more.
    pub(crate) fn punch_at_close(&self) {
        if !self.options.punch {
            return;
        }
        for _ in 0..CLOSING_PIECES {
            if !matches!(self.punch_some(Thrift::AtRest, REST_BYTES_MIN), Ok(1..)) {
                return;
            }
        }
    }
}
