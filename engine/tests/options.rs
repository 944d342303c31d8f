//! Options that cannot be: each is refused by a sentence that names it, no file is left behind, and
//! the process lives on.

#![expect(clippy::unwrap_used, reason = "a panic is the report")]

mod common;

use common::{folder, small, tiny};
use engine::{Error, Options, Store};

/// What is said of options that no store is created with.
fn refusal(options: &Options) -> String {
    let (dir, path) = folder();
    let refused = Store::create(&path, options).map(|_| ()).unwrap_err();
    assert!(matches!(refused, Error::BadOption(_)), "{refused}");
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 0, "files are left: {refused}");
    refused.to_string()
}

#[test]
fn a_log_of_an_impossible_size_is_refused_by_its_name() {
    for (log_bytes, bound) in [
        (u64::MAX, "at most 1 TiB"),
        ((1 << 40) + 1, "at most 1 TiB"),
        ((1 << 20) - 1, "at least 1 MiB"),
        (0, "at least 1 MiB"),
    ] {
        let says = refusal(&Options {
            log_bytes,
            ..small()
        });
        assert!(says.contains("log_bytes"), "{log_bytes}: {says}");
        assert!(says.contains(bound), "{log_bytes}: {says}");
    }
    let says = refusal(&Options {
        log_bytes: 1,
        ..tiny()
    });
    assert!(says.contains("log_bytes"), "{says}");
}

#[test]
fn more_io_threads_than_a_process_can_have_are_refused_by_name() {
    let many = |io_threads| Options {
        io_threads,
        ..small()
    };
    for io_threads in [1025, 100_000, usize::MAX] {
        let says = refusal(&many(io_threads));
        assert!(says.contains("io_threads"), "{io_threads}: {says}");
    }
    let (_dir, path) = folder();
    Store::create(&path, &small()).unwrap().close().unwrap();
    let refused = [
        Store::open(&path, &many(100_000)).map(|_| ()),
        Store::open_read_only(&path, &many(100_000)).map(|_| ()),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(Error::BadOption(_))), "{refused:?}");
    }
    for io_threads in [0, 64] {
        Store::open(&path, &many(io_threads)).unwrap();
    }
}
