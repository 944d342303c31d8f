//! The dynomite command: starts a node, and speaks to one.
//!
//! Exit codes, for scripts:
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the key is absent |
//! | 2 | wrong use: an argument, the configuration |
//! | 3 | no node could be reached |
//! | 4 | the node, or its store, refused |
//! | 5 | a file, or the output, failed |
//! | 6 | bytes on a disk are not what was put: in the store, or in a backup |
//! | 7 | torture saw a broken promise |
//! | 130 | interrupted |

mod arguments;
mod files;
mod load;
mod outcome;
mod requests;
mod start;
mod status;
mod torture;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::outcome::{Code, Outcome, complain};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let code = match run(arguments) {
        Ok(code) => code,
        Err(failure) => {
            if failure.code != Code::Quiet {
                complain(&failure.error);
            }
            failure.code
        }
    };
    code.into()
}

fn run(arguments: Arguments) -> Outcome {
    if !cfg!(all(
        target_os = "linux",
        target_endian = "little",
        target_pointer_width = "64"
    )) {
        return Code::Usage.because("this program needs Linux on a 64-bit little-endian machine");
    }
    match arguments.command {
        Command::Start(start) => start::start(&start),
        Command::Put(put) => requests::put(&put),
        Command::Get(get) => requests::get(&get),
        Command::Has(key) => requests::has(&key),
        Command::Del(key) => requests::delete(&key),
        Command::Load(load) => load::load(&load),
        Command::Status(node) => status::status(&node),
        Command::Stop(node) => requests::stop(&node),
        Command::Backup(backup) => requests::backup(&backup),
        Command::Restore(restore) => requests::restore(&restore),
        Command::Check(node) => requests::check(&node),
        Command::Torture(arguments) => torture::torture(&arguments),
        Command::TortureChild(arguments) => torture::child(&arguments),
    }
}
