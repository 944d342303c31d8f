//! Crashes a store a million times and says what became of its promises.
//!
//! `crash [--states N] [--seed S] [--exhaust K] [--planted] [--bits] [--long] [--toy]`

use dynomite_tests::allocations::Counting;
use dynomite_tests::bits::Bits;
use dynomite_tests::campaign::{Campaign, planted};
use dynomite_tests::subject::Subject;
use dynomite_tests::toy::Toy;
use dynomite_tests::whole::Whole;
use std::process::ExitCode;
use std::time::Instant;

/// So that the damaged stores of `--bits` can be held to what their files could fill.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USAGE: &str = "\
crash [--states N] [--seed S] [--exhaust K] [--planted] [--bits] [--long]
      [--history H] [--threads T] [--toy]

Runs histories on a simulated disk and reopens every image that a crash could leave.
  --states N    states of random histories to try (1000000)
  --seed S      the seed of everything (drawn from the clock, and printed)
  --exhaust K   first every history of up to K operations (0)
  --bits        instead damage every sector, and a bit of each 64 bytes, of whole stores, and every
                bit of each structure; with --long every bit of whole stores
  --planted     instead run each planted bug until it is caught, and print a table
  --long        --exhaust 4 and 60 million states, unless they are given
  --history H   only this history, as the report of a violation names it
  --threads T   threads (2)
  --toy         the harness's own toy store instead of the engine";

struct Arguments {
    campaign: Campaign,
    planted: bool,
    bits: Option<Bits>,
    toy: bool,
}

fn arguments() -> Result<Arguments, String> {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let mut seed = clock.map_or(0, |now| now.as_secs());
    let (mut states, mut exhaust, mut only, mut threads) = (None, None, None, 2);
    let (mut planted, mut bits, mut long, mut toy) = (false, false, false, false);
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
            "--history" => only = Some(number()?),
            "--threads" => threads = number()?.max(1),
            "--planted" => planted = true,
            "--bits" => bits = true,
            "--long" => long = true,
            "--toy" => toy = true,
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            _ => return Err(format!("unknown argument {name}\n{USAGE}")),
        }
    }
    let exhaust = exhaust.unwrap_or(if long { 4 } else { 0 });
    if exhaust > 8 {
        return Err("--exhaust takes at most 8: the histories grow with its power".into());
    }
    let campaign = Campaign {
        seed,
        states: states.unwrap_or(if long { 60_000_000 } else { 1_000_000 }),
        exhaust: u32::try_from(exhaust).map_err(|error| error.to_string())?,
        only,
        bug: None,
        threads: usize::try_from(threads).map_err(|error| error.to_string())?,
        quiet: false,
    };
    let bits = bits.then_some(Bits {
        seed,
        every_bit: long,
        one_in: 1,
        bug: None,
        threads: campaign.threads,
        quiet: false,
    });
    Ok(Arguments {
        campaign,
        planted,
        bits,
        toy,
    })
}

fn main() -> ExitCode {
    match arguments() {
        Ok(Arguments {
            bits: Some(bits), ..
        }) => run_bits(&bits),
        Ok(arguments) if arguments.toy => run::<Toy>(&arguments),
        Ok(arguments) => run::<Whole>(&arguments),
        Err(sentence) => {
            eprintln!("crash: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn run<S: Subject>(arguments: &Arguments) -> ExitCode {
    let campaign = &arguments.campaign;
    let seed = campaign.seed;
    eprintln!("seed {seed}");
    if arguments.planted {
        return verdict(planted::<S>(seed, campaign.threads));
    }
    let outcome = campaign.run::<S>();
    if let Some(found) = &outcome.found {
        println!("{found}");
    }
    let minutes = outcome.took.as_secs_f64() / 60.0;
    let states = f64::from(u32::try_from(outcome.states).unwrap_or(u32::MAX));
    println!(
        "states {}, violations {}, states/min {:.0}, seed {seed}",
        outcome.states,
        u32::from(outcome.found.is_some()),
        states / minutes
    );
    verdict(outcome.found.is_none())
}

fn run_bits(bits: &Bits) -> ExitCode {
    eprintln!("seed {}", bits.seed);
    let started = Instant::now();
    match bits.run() {
        Ok(report) => {
            for violation in &report.violations {
                println!("violation: {violation}");
            }
            println!("{report}");
            println!(
                "flips {}, damaged stores {}, violations {}, seconds {:.0}, seed {}",
                report.flips,
                report.stores(),
                report.violations.len(),
                started.elapsed().as_secs_f64(),
                bits.seed
            );
            verdict(report.violations.is_empty())
        }
        Err(what) => {
            println!("violation: {what}");
            ExitCode::FAILURE
        }
    }
}

fn verdict(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
