//! What is done to a store's file, one thing at a time.

use super::anatomy::{bytes_at, sectors};
use super::pure;
use super::specimen::Specimen;
use crate::image::{Image, Rot};
use crate::rng::Rng;
use dmerkle::format::superblock::Slot;
use dmerkle::geometry::SUPERBLOCK_OFFSETS;
use std::collections::BTreeSet;

/// One damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// One bit of the file is the other way round.
    Bit(u64),
    /// The sector that begins there is zeros.
    Zeros(u64),
    /// It is noise.
    Noise(u64, u32),
    /// It cannot be read.
    Unreadable(u64),
    /// Two sectors have changed places.
    Swap(u64, u64),
    /// A sector holds what it held so many versions ago.
    Stale(u64, usize),
    /// A write never reached the medium, by its number in [`Specimen::lost`].
    LostWrite(usize),
    /// The file ends here.
    Truncated(u64),
    /// Both copies of a slot are zeros.
    SlotLost(Slot),
    /// Both copies of a slot are what they were so many versions ago.
    SlotStale(Slot, usize),
    /// One bit of both copies of the newest superblock is the other way round, and their checksums
    /// fit: no rot does that.
    SealedSuperblock(usize),
    /// One bit of the log block that begins there is, and its checksum fits.
    SealedLog(u64, usize),
}

/// The kinds of damage, as the table shows them.
pub const KINDS: [&str; 12] = [
    "one bit",
    "sector zeroed",
    "sector of noise",
    "sector unreadable",
    "sectors swapped",
    "sector stale",
    "write lost",
    "file cut off",
    "slot lost",
    "slot stale",
    "sealed superblock",
    "sealed log block",
];

impl Mutant {
    /// Which of [`KINDS`].
    pub fn kind(self) -> usize {
        match self {
            Self::Bit(_) => 0,
            Self::Zeros(_) => 1,
            Self::Noise(..) => 2,
            Self::Unreadable(_) => 3,
            Self::Swap(..) => 4,
            Self::Stale(..) => 5,
            Self::LostWrite(_) => 6,
            Self::Truncated(_) => 7,
            Self::SlotLost(_) => 8,
            Self::SlotStale(..) => 9,
            Self::SealedSuperblock(_) => 10,
            Self::SealedLog(..) => 11,
        }
    }

    /// Whether the checksums fit: then nobody can tell, and the store must only do no harm.
    pub fn is_sealed(self) -> bool {
        matches!(self, Self::SealedSuperblock(_) | Self::SealedLog(..))
    }

    /// The damaged file and the sectors that differ; nothing if none does.
    pub fn apply(self, specimen: &Specimen) -> Option<(Image, BTreeSet<u64>)> {
        let sound = &specimen.image;
        let mut image = sound.clone();
        let mut touched = BTreeSet::new();
        let mut rot = |image: &mut Image, sector: u64, rot: Rot| {
            image.rot(sector, rot);
            touched.insert(sector);
        };
        match self {
            Self::Bit(bit) => {
                let sector = bit / 4096 * 512;
                let within = u32::try_from(bit % 4096).expect("below 4096");
                rot(&mut image, sector, Rot::Flip(within));
            }
            Self::Zeros(sector) => rot(&mut image, sector, Rot::Zeros),
            Self::Noise(sector, seed) => rot(&mut image, sector, Rot::Noise(seed)),
            Self::Unreadable(sector) => {
                rot(&mut image, sector, Rot::Unreadable);
                return Some((image, touched));
            }
            Self::Swap(one, other) => {
                for (from, to) in [(one, other), (other, one)] {
                    let mut bytes = [0; 512];
                    sound.copy_out(from, &mut bytes);
                    image.write(to, &bytes);
                    touched.insert(to);
                }
            }
            Self::Stale(sector, version) => {
                image.write(sector, &specimen.earlier[&sector][version]);
                touched.insert(sector);
            }
            Self::LostWrite(number) => {
                let (offset, bytes) = &specimen.lost[number];
                image.write(*offset, bytes);
                touched.extend(sectors(&(*offset..offset + bytes.len() as u64)));
            }
            Self::Truncated(size) => {
                image.set_size(size);
                return Some((image, sectors(&(size..sound.size())).collect()));
            }
            Self::SlotLost(slot) => {
                for copy in slot.copies() {
                    rot(&mut image, SUPERBLOCK_OFFSETS[copy], Rot::Zeros);
                }
            }
            Self::SealedSuperblock(bit) => {
                for copy in specimen.anatomy.slot.copies() {
                    let at = SUPERBLOCK_OFFSETS[copy];
                    let mut bytes = bytes_at(sound, &(at..at + 512));
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    pure::seal_superblock(&mut bytes);
                    image.write(at, &bytes);
                    touched.insert(at);
                }
            }
            Self::SealedLog(at, bit) => {
                let mut bytes = bytes_at(sound, &(at..at + 512));
                bytes[bit / 8] ^= 1 << (bit % 8);
                pure::seal_log_block(specimen.anatomy.superblock.nonce, &mut bytes);
                image.write(at, &bytes);
                touched.insert(at);
            }
            Self::SlotStale(slot, version) => {
                for copy in slot.copies() {
                    let at = SUPERBLOCK_OFFSETS[copy];
                    image.write(at, &specimen.earlier.get(&at)?[version]);
                    touched.insert(at);
                }
            }
        }
        touched.retain(|&sector| {
            let mut bytes = [0; 512];
            image.copy_out(sector, &mut bytes);
            !sound.holds(sector, &bytes)
        });
        (!touched.is_empty()).then_some((image, touched))
    }
}

/// All damage that a specimen is tried with: every sector zeroed, made noise, made unreadable,
/// swapped with another and replaced by each of its earlier versions, every write lost, the file
/// cut off at each sector, superblock and log blocks changed so that their checksums fit, and one random bit of each 64 bytes, or (`every_bit`) every bit of
/// whatever the newest state consists of.
pub fn all(specimen: &Specimen, every_bit: bool, rng: &mut Rng) -> Vec<Mutant> {
    let mut all = Vec::new();
    let size = specimen.image.size();
    let is_blank = |sector: &u64| specimen.image.holds(*sector, &[0; 512]);
    let written: Vec<u64> = sectors(&(0..size)).filter(|at| !is_blank(at)).collect();
    for sector in sectors(&(0..size)) {
        let seed = u32::try_from(rng.number() >> 32).expect("32 bits");
        let other = written[rng.index(written.len())];
        all.extend([
            Mutant::Zeros(sector),
            Mutant::Noise(sector, seed),
            Mutant::Unreadable(sector),
            Mutant::Swap(sector, other),
            Mutant::Truncated(sector),
        ]);
        let versions = specimen.earlier.get(&sector).map_or(0, Vec::len);
        all.extend((0..versions).map(|version| Mutant::Stale(sector, version)));
        let is_free = specimen.anatomy.kind(sector) == super::Kind::Free;
        if every_bit && !is_free {
            all.extend((0..4096).map(|bit| Mutant::Bit(sector * 8 + bit)));
        } else {
            let bits = (0..8).map(|line| Mutant::Bit(sector * 8 + line * 512 + rng.below(512)));
            all.extend(bits);
        }
    }
    all.extend((0..4096).map(Mutant::SealedSuperblock));
    for &at in specimen.anatomy.claims.keys() {
        if every_bit {
            all.extend((0..4096).map(|bit| Mutant::SealedLog(at, bit)));
        } else {
            all.extend((0..64).map(|word| Mutant::SealedLog(at, word * 64 + rng.index(64))));
        }
    }
    all.extend((0..specimen.lost.len()).map(Mutant::LostWrite));
    for slot in [Slot::A, Slot::B] {
        all.push(Mutant::SlotLost(slot));
        let copies = slot.copies().map(|copy| SUPERBLOCK_OFFSETS[copy]);
        let versions = copies.map(|at| specimen.earlier.get(&at).map_or(0, Vec::len));
        let versions = versions[0].min(versions[1]);
        all.extend((0..versions).map(|version| Mutant::SlotStale(slot, version)));
    }
    all
}
