//! Goal: `include/dynomite.h` says what the library does. Method: cbindgen makes it anew from the
//! sources, and every byte is compared.
//!
//! To write it after a change: `DYNOMITE_WRITE_HEADER=1 cargo test -p dynomite-ffi --test header`.

use std::path::Path;

#[test]
fn the_committed_header_is_the_one_that_the_sources_make() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    // The files by name: to find them itself, cbindgen would ask cargo about every dependency.
    for file in ["status", "guard", "store", "tree"] {
        builder = builder.with_src(root.join(format!("src/{file}.rs")));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();

    let place = root.join("../include/dynomite.h");
    if std::env::var_os("DYNOMITE_WRITE_HEADER").is_some() {
        std::fs::write(&place, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&place).unwrap_or_default();
    assert!(
        committed == made,
        "include/dynomite.h is not what ffi/src makes; write it anew: \
         DYNOMITE_WRITE_HEADER=1 cargo test -p dynomite-ffi --test header"
    );
}

#[test]
fn every_exported_function_stands_in_the_header() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = std::fs::read_to_string(root.join("../include/dynomite.h")).unwrap();
    for file in std::fs::read_dir(root.join("src")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue; // a folder of tests
        }
        let source = std::fs::read_to_string(path).unwrap();
        for declared in source.split("extern \"C\" fn ").skip(1) {
            let name = declared.split('(').next().unwrap();
            assert!(header.contains(&format!("{name}(")), "{name} is missing");
        }
    }
}
