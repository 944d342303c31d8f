//! Folders for tests: beside the build, where direct I/O usually works, and in memory, where it
//! does not.

use tempfile::TempDir;

/// A folder beside the build.
pub(crate) fn on_disk() -> TempDir {
    let program = std::env::current_exe().unwrap();
    TempDir::new_in(program.parent().unwrap()).unwrap()
}

/// A folder in each kind of place that this machine has.
pub(crate) fn all() -> Vec<TempDir> {
    let mut places = vec![on_disk()];
    places.extend(TempDir::new_in("/dev/shm"));
    places
}
