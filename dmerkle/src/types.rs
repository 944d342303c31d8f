//! Numbers with a type each, so that none is taken for another.

use core::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A place in the file: the number of a first unit. Zero (the superblock's unit) means none.
    BlockId(u64)
);
number!(
    /// The size of a node's block: `1 << order` units.
    Order(u8)
);
number!(
    /// Which checkpoint: the roots that one superblock names.
    Generation(u64)
);
number!(
    /// Which opening for writing; grows by one with each.
    Incarnation(u64)
);
number!(
    /// A random number drawn at each opening for writing, repeated by what that opening writes,
    /// so that two openings that believe to be the same incarnation are told apart.
    OpeningId(u64)
);
number!(
    /// A place in the endless log, in bytes. The place in the file is `lsn % ring`.
    Lsn(u64)
);
number!(
    /// A tree of the store, never used twice. Zero is the catalog.
    TreeId(u64)
);
number!(
    /// Wrapping sum of entry fingerprints (mod 2^128).
    Sum(u128)
);

impl BlockId {
    /// No block.
    pub const NONE: Self = Self(0);

    /// No store reaches so far (2^20 regions of 2^24 units end below 2^45), and the largest unit
    /// times it still is a file's offset: what names a block beyond is refused.
    pub const MAX: Self = Self(1 << 46);

    /// Whether this names a block at all.
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl Order {
    /// Units in a block of this order.
    pub fn units(self) -> u32 {
        1 << self.0
    }

    /// The smallest order that holds `units`.
    pub fn holding(units: u32) -> Self {
        Self(
            u8::try_from(units.max(1).next_power_of_two().trailing_zeros())
                .expect("at most 32 zeros"),
        )
    }
}

impl TreeId {
    /// The tree that maps every tree's id to its name and root.
    pub const CATALOG: Self = Self(0);
}

impl Sum {
    /// The sum with one more fingerprint in it.
    #[must_use]
    pub fn plus(self, fingerprint: Sum) -> Self {
        Self(self.0.wrapping_add(fingerprint.0))
    }

    /// The sum with one fingerprint taken out.
    #[must_use]
    pub fn minus(self, fingerprint: Sum) -> Self {
        Self(self.0.wrapping_sub(fingerprint.0))
    }
}

/// A contiguous run of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// The first unit.
    pub start: BlockId,
    /// How many units, at least one.
    pub units: u32,
}

impl Run {
    /// The first unit behind the run.
    pub fn end(self) -> u64 {
        self.start.0 + u64::from(self.units)
    }
}

/// How many entries, and the sum of their fingerprints. Equal summaries mean equal contents
/// (up to a collision of 128 bits under the store's key).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Summary {
    /// Entries, tombstones included.
    pub count: u64,
    /// Wrapping sum of their fingerprints; 0 for none.
    pub sum: Sum,
}

impl Summary {
    /// Of no entry.
    pub const EMPTY: Self = Self {
        count: 0,
        sum: Sum(0),
    };

    /// Of one entry.
    pub fn of(fingerprint: Sum) -> Self {
        Self {
            count: 1,
            sum: fingerprint,
        }
    }

    /// Of both contents together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            count: self.count.wrapping_add(other.count),
            sum: self.sum.plus(other.sum),
        }
    }

    /// Of these contents without the others.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            count: self.count.wrapping_sub(other.count),
            sum: self.sum.minus(other.sum),
        }
    }
}
