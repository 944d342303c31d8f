//! What a store must do to take part, and which stores there are.

use crate::data::Key;
use std::path::PathBuf;

/// When a write may be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    /// When it survives a power cut.
    Durable,
    /// When it is visible; a later [`Rival::flush`] makes it durable.
    Buffered,
}

/// A change of one key.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    /// Set its value.
    Put(&'a [u8], &'a [u8]),
    /// Remove it.
    Delete(&'a [u8]),
}

/// What a job will do: each store is set up as its documentation recommends for that.
#[derive(Clone, Debug)]
#[cfg_attr(
    not(feature = "all"),
    expect(
        dead_code,
        reason = "each is read by some store, not each by a light build"
    )
)]
pub(crate) struct Setup {
    /// An existing folder.
    pub(crate) dir: PathBuf,
    /// The store's own cache of what it reads.
    pub(crate) cache_bytes: u64,
    /// What it may buffer of writes.
    pub(crate) write_buffer_bytes: u64,
    /// Values are tens of kilobytes and more.
    pub(crate) large: bool,
    /// All writes are [`Keep::Buffered`].
    pub(crate) buffered: bool,
    /// Several threads write.
    pub(crate) writers: usize,
    /// Keys are put in ascending order only.
    pub(crate) sorted: bool,
    /// The cache is smaller than the data.
    pub(crate) tight: bool,
    /// Do not read ahead, where the store offers that.
    pub(crate) no_read_ahead: bool,
}

impl Setup {
    /// For small values, buffered or not.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            cache_bytes: 1 << 30,
            write_buffer_bytes: 64 << 20,
            large: false,
            buffered: false,
            writers: 1,
            sorted: false,
            tight: false,
            no_read_ahead: false,
        }
    }
}

/// A store that is open. Dropping it closes it.
pub(crate) trait Rival: Send + Sync {
    /// What one thread works with.
    fn session(&self) -> Box<dyn Session + '_>;
    /// Makes all that was acknowledged durable.
    fn flush(&self);
    /// Waits until the store has nothing left to do by itself: checkpoints, compactions, space to be
    /// given back.
    fn settle(&self);
    /// Bytes that are its log and fixed head, not its data: not counted in file / live.
    fn log_bytes(&self) -> u64 {
        0
    }
    /// Bytes of the log that an opening reads, if the store says that.
    fn live_log_bytes(&self) -> Option<u64> {
        None
    }
}

/// What one thread does with a store. A failure is a panic: the run is void then.
pub(crate) trait Session {
    /// All changes or none.
    fn write(&mut self, changes: &[Change<'_>], keep: Keep);
    /// Shows the value of a key, as of now. Whether there is one.
    fn get(&mut self, key: &[u8], see: &mut dyn FnMut(&[u8])) -> bool;
    /// Shows the values of keys that are there, all as of one moment.
    fn get_many(&mut self, keys: &[Key], see: &mut dyn FnMut(usize, &[u8]));
    /// Shows up to `limit` entries from `low` on, in order. How many there were.
    fn scan(&mut self, low: &[u8], limit: u64, see: &mut dyn FnMut(&[u8], &[u8])) -> u64;
}
