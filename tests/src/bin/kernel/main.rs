//! Cuts real file systems off below a store, and kills a busy node; see what each rig says.
//!
//! `kernel [--rounds N] [--seed S] [--long] [--only RIG]`
//!
//! Each rig runs twice: with the engine as it is, which must lose nothing, and as its own twin with
//! a flush (or a write) removed, which must lose something, or the rig proves nothing.

mod cut;
mod killed;
mod machine;
mod rig;
mod volume;

use engine::planted::{self, Bug};
use rig::Rig;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use torture::Load;

const USAGE: &str = "\
kernel [--rounds N] [--seed S] [--long] [--only RIG] [--program FILE]

Writes to a store, cuts off what is below it, and sees what is left; with a twin that must lose.
  ext4, xfs            the file system's shutdown: what its journal did not commit is lost
  ext4-cached          the same where it refuses O_DIRECT: all that was not flushed is lost
  ext4-power           a disk with a volatile cache that loses its power: what was not flushed to
  xfs-power            the disk is lost, but for what it happened to have written
  node                 kill -9 of a busy node
The first five need root, loop devices, and mkfs of the file system.
  --rounds N    cuts of each rig (50)
  --seed S      the seed of everything (drawn from the clock, and printed)
  --long        1000 rounds, unless they are given
  --only RIG    rigs whose name begins so; may be repeated
  --program F   the dynomite program that is killed (this one serves as a node itself)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["child", store, load, fault] => child(store, load, fault),
        ["node", folder, fault] => {
            plant(fault);
            told(killed::serve(Path::new(folder)))
        }
        _ => match Choice::read(&arguments) {
            Ok(choice) => run(&choice),
            Err(sentence) => told(Err(sentence)),
        },
    }
}

fn told(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("kernel: {sentence}");
            ExitCode::from(2)
        }
    }
}

/// Plants the fault of this name, if it is one.
fn plant(name: &str) {
    if let Some(bug) = Bug::ALL.iter().find(|bug| bug.name() == name) {
        planted::plant_everywhere(*bug);
    }
}

/// The process that writes.
fn child(store: &str, load: &str, fault: &str) -> ExitCode {
    plant(fault);
    let run = || {
        let load = Load::from_argument(load).ok_or("not a load")?;
        let lines = std::io::stdout().as_fd().try_clone_to_owned();
        let lines = File::from(lines.map_err(|error| error.to_string())?);
        // Nobody listens any more: then there is nothing to do.
        let _ = torture::child::run(&load, Path::new(store), &lines);
        Ok(())
    };
    told(run())
}

struct Choice {
    rounds: u32,
    seed: u64,
    only: Vec<String>,
    program: Option<String>,
}

impl Choice {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let mut choice = Self {
            rounds: 0,
            seed: clock.map_or(1, |now| now.as_secs()),
            only: Vec::new(),
            program: None,
        };
        let mut long = false;
        let mut words = arguments.iter();
        while let Some(name) = words.next() {
            let mut value = || words.next().ok_or(format!("{name} needs a value"));
            let number = |value: &String| {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{name} needs a number, not {value}"))
            };
            match name.as_str() {
                "--rounds" => {
                    let rounds = u32::try_from(number(value()?)?);
                    choice.rounds = rounds.map_err(|error| error.to_string())?;
                }
                "--seed" => choice.seed = number(value()?)?,
                "--only" => choice.only.push(value()?.clone()),
                "--program" => choice.program = Some(value()?.clone()),
                "--long" => long = true,
                "--help" | "-h" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                _ => return Err(format!("unknown argument {name}\n{USAGE}")),
            }
        }
        if choice.rounds == 0 {
            choice.rounds = if long { 1000 } else { 50 };
        }
        Ok(choice)
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }
}

fn run(choice: &Choice) -> ExitCode {
    eprintln!("seed {}", choice.seed);
    println!("{}", rig::HEAD);
    let mut rigs: Vec<Box<dyn Rig>> = Vec::new();
    for place in volume::Place::ALL {
        rigs.push(Box::new(cut::Cut(place)));
    }
    rigs.push(Box::new(killed::Killed {
        program: choice.program.clone(),
    }));
    let mut good = true;
    let mut ran = 0;
    for rig in rigs.iter().filter(|rig| choice.wants(rig.name())) {
        ran += 1;
        if let Some(why) = rig.missing() {
            println!("{:<12} skipped: {why}", rig.name());
            continue;
        }
        good &= rig::both(rig.as_ref(), choice.rounds, choice.seed);
    }
    if ran == 0 {
        return told(Err(format!("no such rig\n{USAGE}")));
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
