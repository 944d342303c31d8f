//! # Fuzz targets: what Dynomite reads from disks and peers, on arbitrary bytes
//!
//! Each target is one pure function here and one line in `fuzz_targets/`. Under cargo-fuzz
//! (`cargo +nightly fuzz run superblock`) that line is a libFuzzer target; on the stable toolchain
//! it is a program that runs the function over the files it is given, to replay what was found.
//! `cargo test` runs every function over good inputs and thousands of mutations of them.
//!
//! What a function promises, beyond not panicking and not looping for ever, it asserts: what
//! decodes encodes to the same bytes, what was validated can be read, an answer fits a frame.

use dmerkle::diff::{FRAME_BYTES_MAX, Sorted, respond};
use dmerkle::format::record::BatchRef;
use dmerkle::format::superblock::{SUPERBLOCK_BYTES, Superblock};
use dmerkle::recover::{ReadAt, ScanInput, Unreadable, choose, read_superblocks, scan};
use dmerkle::{Lsn, Sum};
use std::convert::Infallible;

#[cfg(fuzzing)]
pub use libfuzzer_sys;

/// Makes a function over bytes the whole of a target's file.
#[macro_export]
macro_rules! target {
    ($body:path) => {
        #[cfg(fuzzing)]
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| $body(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($body)
        }
    };
}

/// Runs `body` over the files that the command line names.
pub fn replay(body: fn(&[u8])) -> std::io::Result<()> {
    for file in std::env::args_os().skip(1) {
        body(&std::fs::read(&file)?);
        println!("{}: no fault", file.to_string_lossy());
    }
    Ok(())
}

/// What decodes as a superblock encodes to the same bytes.
pub fn superblock(data: &[u8]) {
    if let Ok((superblock, slot)) = Superblock::decode(data) {
        assert_eq!(&superblock.encode(slot)[..], &data[..SUPERBLOCK_BYTES]);
    }
}

/// Every operation of a validated batch can be read, and there are as many as it says.
pub fn batch(data: &[u8]) {
    if let Ok(batch) = BatchRef::decode(data) {
        assert_eq!(batch.ops().count(), batch.ops_len() as usize);
    }
}

/// A file in memory.
struct Image<'a>(&'a [u8]);

impl ReadAt for Image<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let start = usize::try_from(offset).map_err(|_| Unreadable)?;
        let end = start.checked_add(buf.len()).ok_or(Unreadable)?;
        buf.copy_from_slice(self.0.get(start..end).ok_or(Unreadable)?);
        Ok(())
    }

    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

/// The log of an arbitrary file is handed out in order, each batch behind the one before it.
pub fn recover(data: &[u8]) {
    let image = Image(data);
    let Ok(superblocks) = read_superblocks(&image) else {
        return;
    };
    let Ok(choice) = choose(&image, &superblocks) else {
        return;
    };
    let input = ScanInput {
        superblock: &choice.superblock,
        starts: &choice.starts,
        accept_loss: None,
    };
    let mut end = Lsn(0);
    let scanned = scan::<Infallible>(&image, &input, &mut |batch| {
        assert!(end <= batch.start && batch.start < batch.end);
        end = batch.end;
        Ok(())
    });
    let Ok(scanned) = scanned;
    assert!(end <= scanned.end || end == Lsn(0));
}

/// An arbitrary frame is refused, or its answer fits a frame.
pub fn diff_frame(data: &[u8]) {
    let entries = (0..500_u16).map(|n| (n.to_le_bytes().to_vec(), Sum(u128::from(n) << 70)));
    if let Ok(answer) = respond(&mut Sorted::new(7, entries), data) {
        assert!(answer.len() <= FRAME_BYTES_MAX);
    }
}

#[cfg(test)]
mod tests;
