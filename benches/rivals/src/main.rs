//! # rivals: other stores under the same workload
//!
//! Nothing is measured yet: the program says so and fails, so that no script takes its silence for
//! a result. The README beside it says what will stand here.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("rivals: no rival is measured yet; see benches/rivals/README.md");
    ExitCode::FAILURE
}
