//! Crashes a store a million times and says what became of its promises.
//!
//! `crash [--states N] [--seed S] [--exhaust K] [--planted] [--long]`

use dynomite_tests::campaign::{Campaign, planted};
use dynomite_tests::toy::Toy;
use std::process::ExitCode;

const USAGE: &str = "\
crash [--states N] [--seed S] [--exhaust K] [--planted] [--long] [--threads T]

Runs histories on a simulated disk and reopens every image that a crash could leave.
  --states N    states of random histories to try (1000000)
  --seed S      the seed of everything (drawn from the clock, and printed)
  --exhaust K   first every history of up to K operations (0)
  --planted     instead run each planted bug until it is caught, and print a table
  --long        --exhaust 3 and 60 million states, unless they are given
  --threads T   threads (2)";

struct Arguments {
    campaign: Campaign,
    planted: bool,
}

fn arguments() -> Result<Arguments, String> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut seed = clock.map_or(0, |now| now.as_secs());
    let (mut states, mut exhaust, mut threads) = (None, None, 2);
    let (mut planted, mut long) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let mut number = || -> Result<u64, String> {
            let value = arguments.next();
            let value = value.ok_or_else(|| format!("{name} needs a number"))?;
            let digits = value.replace('_', "");
            digits
                .parse()
                .map_err(|_| format!("{name} needs a number, not {value}"))
        };
        match name.as_str() {
            "--states" => states = Some(number()?),
            "--seed" => seed = number()?,
            "--exhaust" => exhaust = Some(number()?),
            "--threads" => threads = number()?.max(1),
            "--planted" => planted = true,
            "--long" => long = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown argument {name}\n{USAGE}")),
        }
    }
    let exhaust = exhaust.unwrap_or(if long { 3 } else { 0 });
    if exhaust > 8 {
        return Err("--exhaust takes at most 8: the histories grow with its power".into());
    }
    let campaign = Campaign {
        seed,
        states: states.unwrap_or(if long { 60_000_000 } else { 1_000_000 }),
        exhaust: u32::try_from(exhaust).map_err(|error| error.to_string())?,
        bug: None,
        threads: usize::try_from(threads).map_err(|error| error.to_string())?,
        quiet: false,
    };
    Ok(Arguments { campaign, planted })
}

fn main() -> ExitCode {
    let Arguments {
        campaign,
        planted: bugs,
    } = match arguments() {
        Ok(arguments) => arguments,
        Err(sentence) => {
            eprintln!("crash: {sentence}");
            return ExitCode::from(2);
        }
    };
    if bugs {
        println!("seed {}", campaign.seed);
        return if planted::<Toy>(campaign.seed, campaign.threads) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    eprintln!("seed {}", campaign.seed);
    let outcome = campaign.run::<Toy>();
    let violations = u32::from(outcome.found.is_some());
    if let Some(found) = &outcome.found {
        println!("{found}");
    }
    println!(
        "states {}, violations {violations}, states/min {:.0}, seed {}",
        outcome.states,
        f64::from(u32::try_from(outcome.states).unwrap_or(u32::MAX)) * 60.0
            / outcome.took.as_secs_f64(),
        campaign.seed
    );
    if violations == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
