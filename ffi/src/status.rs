//! What a call returns: numbers that C programs were compiled with, so none ever changes.

use engine::Error;
use std::ffi::c_char;

/// What became of a call. Numbers are never changed nor used again; new ones are added behind.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It happened.
    Ok = 0,
    /// There is no such key. Nothing failed.
    NotFound = 1,
    /// A pointer is NULL that must not be, or a length is impossible.
    InvalidArgument = 2,
    /// The system refused a read or write of the store's file.
    Io = 3,
    /// Bytes on disk are not what they must be.
    Corrupt = 4,
    /// The log holds acknowledged commits that cannot be read any more.
    AcknowledgedLoss = 5,
    /// The file is not a Dynomite store.
    NotAStore = 6,
    /// The store has a version of the format that this library does not read.
    FormatVersion = 7,
    /// The newer superblock is gone, and the older one is not safe to open.
    SuperblockLost = 8,
    /// The store is open already, in this process or another.
    Locked = 9,
    /// There is already a file where a store should be created.
    Exists = 10,
    /// There is no tree of this name.
    NoSuchTree = 11,
    /// A tree of this name exists.
    TreeExists = 12,
    /// A key, value or name is over its limit.
    TooLarge = 13,
    /// A batch is over what the store's log takes.
    BatchTooLarge = 14,
    /// The disk is full. Nothing was written.
    DiskFull = 15,
    /// The store is as large as its format allows.
    StoreFull = 16,
    /// A write failed before; the store takes no more until it is opened anew.
    Poisoned = 17,
    /// The store was opened for reading only.
    ReadOnly = 18,
    /// The store was closed.
    Closed = 19,
    /// The snapshot was held for too long.
    SnapshotExpired = 20,
    /// The entry is not as the condition says.
    ConditionFailed = 21,
    /// The options do not fit each other or the machine.
    BadOption = 22,
    /// A defect of this library, caught. The store's file is as a crash would leave it.
    Panic = 23,
    /// An error that has no number yet.
    Unknown = 24,
}

impl Status {
    const ALL: [(Self, &'static std::ffi::CStr); 25] = [
        (Self::Ok, c"ok"),
        (Self::NotFound, c"no such key"),
        (Self::InvalidArgument, c"invalid argument"),
        (Self::Io, c"input or output failed"),
        (Self::Corrupt, c"damaged bytes"),
        (Self::AcknowledgedLoss, c"acknowledged commits are lost"),
        (Self::NotAStore, c"not a Dynomite store"),
        (Self::FormatVersion, c"unknown format version"),
        (Self::SuperblockLost, c"superblock lost"),
        (Self::Locked, c"store is open already"),
        (Self::Exists, c"file exists"),
        (Self::NoSuchTree, c"no such tree"),
        (Self::TreeExists, c"tree exists"),
        (Self::TooLarge, c"too large"),
        (Self::BatchTooLarge, c"batch too large"),
        (Self::DiskFull, c"disk full"),
        (Self::StoreFull, c"store full"),
        (Self::Poisoned, c"store takes no more writes"),
        (Self::ReadOnly, c"store is read-only"),
        (Self::Closed, c"store is closed"),
        (Self::SnapshotExpired, c"snapshot expired"),
        (Self::ConditionFailed, c"condition failed"),
        (Self::BadOption, c"bad option"),
        (Self::Panic, c"defect in libdynomite"),
        (Self::Unknown, c"unknown error"),
    ];

    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Io { .. } => Self::Io,
            Error::Corrupt(_) | Error::Damaged { .. } => Self::Corrupt,
            Error::AcknowledgedLoss { .. } => Self::AcknowledgedLoss,
            Error::NotAStore(_) => Self::NotAStore,
            Error::FormatVersion { .. } => Self::FormatVersion,
            Error::SuperblockLost => Self::SuperblockLost,
            Error::Locked => Self::Locked,
            Error::Exists => Self::Exists,
            Error::NoSuchTree => Self::NoSuchTree,
            Error::TreeExists => Self::TreeExists,
            Error::TooLarge { .. } => Self::TooLarge,
            Error::BatchTooLarge { .. } => Self::BatchTooLarge,
            Error::DiskFull => Self::DiskFull,
            Error::StoreFull => Self::StoreFull,
            Error::Poisoned { .. } => Self::Poisoned,
            Error::ReadOnly => Self::ReadOnly,
            Error::Closed => Self::Closed,
            Error::SnapshotExpired => Self::SnapshotExpired,
            Error::ConditionFailed => Self::ConditionFailed,
            Error::BadOption(_) => Self::BadOption,
            // The engine may grow errors; this table follows by hand, so that numbers stay.
            _ => Self::Unknown,
        }
    }
}

/// A few words for a status, never NULL, never to be freed. Any number is fine.
#[unsafe(no_mangle)]
pub extern "C" fn dynomite_status_text(status: i32) -> *const c_char {
    let known = Status::ALL
        .iter()
        .find(|(known, _)| *known as i32 == status);
    known
        .map_or(c"no status of libdynomite", |(_, text)| text)
        .as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_its_text_and_no_number_has_two() {
        for (number, (status, _)) in Status::ALL.iter().enumerate() {
            assert_eq!(*status as usize, number);
        }
    }
}
