//! A reader and writers of little-endian fields that never read past the end.

use crate::error::{Corrupt, Fault, Structure};

/// Reads fields from the front of a slice; past the end is an error that names the structure.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    structure: Structure,
}

macro_rules! field {
    ($(#[$doc:meta])* $name:ident, $ty:ty) => {
        $(#[$doc])*
        #[inline]
        pub fn $name(&mut self) -> Result<$ty, Corrupt> {
            let bytes = self.take(size_of::<$ty>())?;
            Ok(<$ty>::from_le_bytes(bytes.try_into().expect("length was asked for")))
        }
    };
}

impl<'a> Reader<'a> {
    /// Reads `bytes` as part of a `structure`.
    #[inline]
    pub fn new(bytes: &'a [u8], structure: Structure) -> Self {
        Self {
            bytes,
            at: 0,
            structure,
        }
    }

    /// The next `length` bytes.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let rest = &self.bytes[self.at..];
        if length > rest.len() {
            return Err(Corrupt::new(
                self.structure,
                Fault::Truncated {
                    need: (self.at as u64).saturating_add(length as u64),
                    got: self.bytes.len() as u64,
                },
            ));
        }
        self.at += length;
        Ok(&rest[..length])
    }

    field!(
        /// The next byte.
        u8, u8
    );
    field!(
        /// The next 2 bytes.
        u16, u16
    );
    field!(
        /// The next 4 bytes.
        u32, u32
    );
    field!(
        /// The next 8 bytes.
        u64, u64
    );
    field!(
        /// The next 16 bytes.
        u128, u128
    );

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        Ok(self.take(N)?.try_into().expect("length was asked for"))
    }

    /// The next `length` bytes, which must be zero: padding that is checked.
    #[inline]
    pub fn zeros(&mut self, length: usize) -> Result<(), Corrupt> {
        if self.take(length)?.iter().any(|&byte| byte != 0) {
            return Err(Corrupt::rule(self.structure, "padding is not zero"));
        }
        Ok(())
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }
}

/// Reads a little-endian `u16` at `at`. The caller has validated the bounds.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// Reads a little-endian `u32` at `at`. The caller has validated the bounds.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Reads a little-endian `u64` at `at`. The caller has validated the bounds.
#[inline]
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Writes `field` at `at`.
pub fn put_at<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}
