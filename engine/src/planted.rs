//! Deliberate faults, to prove that the crash tests have teeth. Without the feature `planted` all
//! of this is the constant `false`; no program that users run is built with it.
//!
//! A fault is chosen per thread, because the crash tests drive one store per thread; or for the whole
//! process, in which a store has threads of its own.

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident),+ $(,)?) => {
        /// What can be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[doc = $doc])* $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// Their names.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)+];

            /// The name of the fault.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

bugs! {
    /// A commit is acknowledged, but the log was not flushed.
    DropLogFlush,
    /// The flush comes before the write of the log that it should cover.
    AckBeforeFlush,
    /// What a checkpoint drops is free before its superblock is written.
    ReuseRetiredEarly,
    /// What a checkpoint dropped is free although no log block carries its generation.
    ReleaseBeforeStamp,
    /// What a checkpoint dropped is free although a snapshot shows it.
    ReleaseWhileRead,
    /// Recovery does not mark the extents that the live log names.
    ForgetLogNamed,
    /// A rotten acknowledged block of the log is taken for its end.
    CutAcknowledged,
    /// Of two readable superblocks the older one is opened.
    StaleSuperblock,
    /// The next superblock's slot is chosen by the generation's parity.
    SlotByParity,
    /// The new incarnation is written over the superblock that was opened.
    OverwriteOpenedSlot,
    /// Recovery believes every extent.
    SkipExtentHash,
    /// A changed map is not written.
    ForgetMap,
    /// A map is written over the copy that the durable table names.
    MapInPlace,
    /// The region table is written over the copy that the durable superblock names.
    TableInPlace,
    /// A tree's count is wrong by one.
    CountWrong,
    /// The fingerprint of an overwritten entry is wrong.
    SumWrong,
    /// The nodes are not flushed before the superblock that names them.
    DropNodeFlush,
    /// The superblock is not flushed before what it replaces is given up.
    DropSuperblockFlush,
    /// A log block carries a generation whose superblock is not durable.
    StampEarly,
    /// The ring's tail moves when a checkpoint begins.
    TailEarly,
    /// The log begins one group too late for the base.
    LogStartLate,
    /// A superseded extent is never given back.
    ForgetSuperseded,
    /// A part that an update kept is given back with the version before it.
    RetireKept,
    /// The new incarnation's log begins at the next block, not behind the last batch's byte.
    CutByBlock,
    /// The last piece of an extent is not written.
    LoseExtentTail,
    /// A dropped tree's entries stay.
    DropForgotten,
    /// A part is given out without a look at its checksums.
    SkipChunkChecksum,
    /// An opening for reading only writes its incarnation.
    ReadOnlyWrites,
    /// A backup leaves off its last batch, and does not compare.
    BackupLosesTail,
    /// An asynchronous get passes over what is not in the base yet.
    AsyncReadsBase,
    /// A range that is deleted keeps its last entry.
    DeleteRangeShort,
    /// A commit is acknowledged before its log is written: that goes with a later one.
    AckBeforeWrite,
    /// Parts that a checkpoint moves out of the log are written behind its superblock.
    MoveLate,
    /// The maps do not reach the parts that a checkpoint moved out of the log.
    ForgetMoved,
}

#[cfg(feature = "planted")]
mod chosen {
    use super::Bug;
    use std::cell::Cell;
    use std::sync::OnceLock;

    thread_local! {
        static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    static EVERYWHERE: OnceLock<Bug> = OnceLock::new();

    /// Plants a fault for stores that this thread drives, or none.
    pub fn plant(bug: Option<Bug>) {
        CHOSEN.set(bug);
    }

    /// Plants a fault for every store of this process, for good.
    pub fn plant_everywhere(bug: Bug) {
        let _ = EVERYWHERE.set(bug);
    }

    /// Whether this fault is planted.
    pub(crate) fn has(bug: Bug) -> bool {
        CHOSEN.get() == Some(bug) || EVERYWHERE.get() == Some(&bug)
    }
}

#[cfg(not(feature = "planted"))]
mod chosen {
    use super::Bug;

    /// Whether this fault is planted: never.
    pub(crate) const fn has(_bug: Bug) -> bool {
        false
    }
}

pub(crate) use chosen::has;
#[cfg(feature = "planted")]
pub use chosen::{plant, plant_everywhere};

/// What can be wrong between threads: for the tests of schedules, which alone can choose one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Race {
    /// The leader shows its batches before it has flushed them.
    ShowEarly,
    /// The leader leaves, and nobody is told that batches wait for the next one.
    ForgetHandOver,
    /// The leader leaves, and those who wait for the durable LSN to move are not told.
    ForgetMoved,
    /// The store stops its threads without the lock under which they go to sleep.
    StopUnlocked,
    /// The leader does not say that it is at work.
    TwoLeaders,
    /// A snapshot's state and its LSN are taken without looking whether they belong together.
    TornView,
    /// The cache knows a node by its block alone, and is not told what a checkpoint replaces.
    CacheByBlock,
    /// A reader keeps the topmost node that it met with the newest base, not with its own.
    TopOfNewest,
    /// The thread that helps to hash tells nobody that it is done.
    ForgetSummed,
    /// Who walks a memtable believes that nothing is left to be linked in when another has just
    /// taken it.
    WalkUnlinked,
}

#[cfg(all(test, shuttle))]
mod racing {
    use super::Race;
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<Option<Race>> = const { Cell::new(None) };
    }

    /// Plants a fault for the schedules that this thread runs, or none.
    pub(crate) fn plant_race(race: Option<Race>) {
        CHOSEN.set(race);
    }

    /// Whether this fault is planted.
    pub(crate) fn races(race: Race) -> bool {
        CHOSEN.get() == Some(race)
    }
}

#[cfg(not(all(test, shuttle)))]
mod racing {
    use super::Race;

    /// Whether this fault is planted: never.
    pub(crate) const fn races(_race: Race) -> bool {
        false
    }
}

#[cfg(all(test, shuttle))]
pub(crate) use racing::plant_race;
pub(crate) use racing::races;
