//! Fields of fixed structures, spelt once: the macro makes the offsets that the code uses and the
//! list that a test compares with the tables of `FORMAT.md`.

/// One field of a fixed structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name, as in `FORMAT.md`.
    pub name: &'static str,
    /// Where it begins, from the structure's first byte.
    pub offset: usize,
    /// How many bytes it takes.
    pub size: usize,
}

/// Declares the offsets of a structure's fields and `FIELDS`, the list of them.
macro_rules! layout {
    ($($vis:vis $constant:ident $name:literal $offset:literal + $size:literal;)*) => {
        $($vis const $constant: usize = $offset;)*
        /// The fixed fields, in order: what the table in `FORMAT.md` is compared with.
        #[allow(dead_code, reason = "the comparison is a test")]
        pub const FIELDS: &[crate::format::layout::Field] = &[
            $(crate::format::layout::Field { name: $name, offset: $constant, size: $size },)*
        ];
    };
}
pub(crate) use layout;
