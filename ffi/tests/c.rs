//! Goal: a C program can use the store. Method: `smoke.c` is compiled with the system's compiler,
//! all warnings being errors, linked with both kinds of library, and run.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where cargo left the libraries: beside this test.
fn libraries() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a program");
    test.parent()
        .expect("a program is in a folder")
        .to_path_buf()
}

fn compile_and_run(link: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder can be made");
    let program = folder.path().join("smoke");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let compilation = Command::new(compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg("-I")
        .arg(root.join("../include"))
        .arg(root.join("tests/smoke.c"))
        .arg("-L")
        .arg(libraries())
        .args(link)
        .arg("-o")
        .arg(&program)
        .output()
        .expect("there is a C compiler");
    let words = String::from_utf8_lossy(&compilation.stderr);
    assert!(compilation.status.success(), "{words}");
    let ran = Command::new(&program)
        .arg(folder.path().join("store.dynomite"))
        .env("LD_LIBRARY_PATH", libraries())
        .output()
        .expect("what was compiled can be run");
    let words = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{words}");
}

#[test]
fn a_c_program_uses_the_shared_library() {
    compile_and_run(&["-ldynomite"]);
}

#[test]
fn a_c_program_uses_the_static_library() {
    compile_and_run(&["-l:libdynomite.a", "-lpthread", "-ldl", "-lm"]);
}
