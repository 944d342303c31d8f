//! # rivals: other stores under the same workload
//!
//! The README beside it says what is measured and how fairly. Where to look:
//! - the rows and their bars: `rows`; the jobs that fill them: `jobs`, a file per group;
//! - a store: `rival` has the trait, `stores` a file each with its settings;
//! - keys and values, all of whose bytes are checked when read: `data`;
//! - children, results, verdicts, table, page and picture: `driver`, `results`, `verdict`, `table`,
//!   `page`, `picture`.

mod data;
mod disk;
mod driver;
mod jobs;
mod page;
mod picture;
mod results;
mod rival;
mod rows;
mod stores;
mod table;
mod verdict;

use driver::Plan;
use jobs::{Context, JOBS};
use results::Results;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const HELP: &str = "\
usage: run [--quick] [--only WORD] [--store NAME] [--json FILE] [--dir DIR] [--picture FILE]
           [--page FILE] [--repetitions N] [--scale F] [--seconds S] [--for SECONDS] [--table]

--quick          small sizes, one repetition: shows that every row runs
--only WORD      rows whose names contain WORD; may be given again
--store NAME     only this store; may be given again
--json FILE      keep results here as JSON lines, and measure only what it has not
--dir DIR        where the stores are; default: beside the program
--picture FILE   write the picture (SVG) here
--page FILE      make the tables of this page anew (RESULTS.md)
--repetitions N  default 3
--scale F        multiply all counts; 1 is the contest
--seconds S      how long what is measured by time is measured; default 2
--for SECONDS    begin nothing new after that; a later run goes on
--table          measure nothing, print what the file has
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("child") => child(&words[1..]),
        Some("load-until-killed") => {
            let store = stores::find(&words[1]).expect("a store");
            let count = words[3].parse().expect("a count");
            jobs::load_until_killed(store, PathBuf::from(&words[2]), count);
            ExitCode::SUCCESS
        }
        _ => match plan(&words) {
            Ok(asked) => contest(&asked),
            Err(told) => {
                eprint!("{told}");
                ExitCode::FAILURE
            }
        },
    }
}

fn child(words: &[String]) -> ExitCode {
    let job = JOBS.iter().find(|job| job.name == words[0]).expect("a job");
    let context = Context {
        store: stores::find(&words[1]).expect("a store"),
        dir: PathBuf::from(&words[2]),
        scale: words[3].parse().expect("a number"),
        seconds: words[4].parse().expect("a number"),
        seed: words[5].parse().expect("a number"),
    };
    let mut figures = Vec::new();
    (job.run)(&context, &mut figures);
    results::print_figures(&figures);
    ExitCode::SUCCESS
}

/// What the command line asked for.
struct Asked {
    plan: Plan,
    picture: Option<PathBuf>,
    page: Option<PathBuf>,
    table_only: bool,
}

fn plan(words: &[String]) -> Result<Asked, String> {
    let mut plan = Plan {
        only: Vec::new(),
        stores: Vec::new(),
        json: PathBuf::new(),
        dir: PathBuf::new(),
        scale: 1.0,
        seconds: 2.0,
        repetitions: 3,
        stop: None,
    };
    let (mut picture, mut page, mut table_only) = (None, None, false);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or(format!("{word} what?\n{HELP}"));
        let number = |text: String| {
            let number = text.parse::<f64>();
            number.map_err(|_| format!("{word} {text}: a number is wanted\n"))
        };
        match word.as_str() {
            "--quick" => {
                plan.scale = 0.01;
                plan.seconds = 0.1;
                plan.repetitions = 1;
            }
            "--only" => plan.only.push(value()?),
            "--store" => plan.stores.push(value()?),
            "--json" => plan.json = value()?.into(),
            "--dir" => plan.dir = value()?.into(),
            "--picture" => picture = Some(value()?.into()),
            "--page" => page = Some(value()?.into()),
            "--repetitions" => plan.repetitions = number(value()?)? as u64,
            "--scale" => plan.scale = number(value()?)?,
            "--seconds" => plan.seconds = number(value()?)?,
            "--for" => plan.stop = Some(Duration::from_secs_f64(number(value()?)?)),
            "--table" => table_only = true,
            _ => return Err(HELP.into()),
        }
    }
    if plan.dir.as_os_str().is_empty() {
        let program = std::env::current_exe().map_err(|error| format!("{error}\n"))?;
        plan.dir = program.with_file_name("rivals-data");
    }
    std::fs::create_dir_all(&plan.dir)
        .map_err(|error| format!("{}: {error}\n", plan.dir.display()))?;
    if plan.json.as_os_str().is_empty() {
        let name = format!("results-{}.jsonl", std::process::id());
        plan.json = plan.dir.join(name);
    }
    Ok(Asked {
        plan,
        picture,
        page,
        table_only,
    })
}

fn contest(asked: &Asked) -> ExitCode {
    let plan = &asked.plan;
    let mut results = Results::read(&plan.json, plan.scale, plan.seconds);
    let finished = asked.table_only || driver::run(plan, &mut results);
    print!("{}", table::print(&results, plan.scale));
    println!("results: {}", plan.json.display());
    let drawn = |file: &PathBuf| std::fs::write(file, picture::draw(&results, plan.scale));
    for (what, file, written) in [
        ("picture", &asked.picture, asked.picture.as_ref().map(drawn)),
        (
            "page",
            &asked.page,
            asked.page.as_ref().map(|file| page::update(file, &results)),
        ),
    ] {
        let (Some(file), Some(written)) = (file, written) else {
            continue;
        };
        if let Err(error) = written {
            eprintln!("{}: {error}", file.display());
            return ExitCode::FAILURE;
        }
        println!("{what}: {}", file.display());
    }
    if !finished {
        println!("not finished: the same command goes on");
    }
    if results.failures().next().is_some() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
