//! Runs each (job, store, repetition) as a child process of this program, the stores in turn, in a
//! fresh folder, and keeps what it says.

use crate::jobs::{Figures, JOBS, Job};
use crate::results::{Outcome, Results, parse_figures};
use crate::stores::{STORES, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What the command line asked for.
pub(crate) struct Plan {
    /// Rows or jobs whose names contain one of these words; all if there is none.
    pub(crate) only: Vec<String>,
    /// Stores by name; all if there is none.
    pub(crate) stores: Vec<String>,
    /// Results are kept and looked up here.
    pub(crate) json: PathBuf,
    /// Where the stores are.
    pub(crate) dir: PathBuf,
    pub(crate) scale: f64,
    pub(crate) seconds: f64,
    pub(crate) repetitions: u64,
    /// Begin nothing new after this.
    pub(crate) stop: Option<Duration>,
}

/// No child takes longer.
const CHILD_MAX: Duration = Duration::from_secs(600);

/// Whether a job is among those that were asked for. A word that is a whole name means only that.
fn chosen(job: &Job, only: &[String]) -> bool {
    let names = || job.rows.iter().chain(std::iter::once(&job.name));
    let is_name = |word: &str| {
        let mut jobs = JOBS.iter();
        jobs.any(|job| job.name == word || job.rows.contains(&word))
    };
    let matches = |word: &String| {
        let whole = is_name(word);
        names().any(|name| *name == word || (!whole && name.contains(word.as_str())))
    };
    only.is_empty() || only.iter().any(matches)
}

/// Runs what is missing. Whether all of it was run.
pub(crate) fn run(plan: &Plan, results: &mut Results) -> bool {
    let begin = Instant::now();
    for job in JOBS.iter().filter(|job| chosen(job, &plan.only)) {
        for repetition in 0..plan.repetitions {
            let mut stores: Vec<&Store> = STORES
                .iter()
                .filter(|store| job.parts.contains(&store.part))
                .filter(|store| {
                    let asked = |name: &String| name == store.name;
                    plan.stores.is_empty() || plan.stores.iter().any(asked)
                })
                .collect();
            // Nobody is always the first.
            let turn = repetition as usize % stores.len().max(1);
            stores.rotate_left(turn);
            for store in stores {
                if results.has(job.name, store.name, repetition) {
                    continue;
                }
                if plan.stop.is_some_and(|stop| begin.elapsed() > stop) {
                    return false;
                }
                let outcome = measure(plan, job, store, repetition);
                results.add(&plan.json, outcome);
            }
        }
    }
    true
}

fn measure(plan: &Plan, job: &Job, store: &Store, repetition: u64) -> Outcome {
    let dir = plan.dir.join(format!("child-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let begin = Instant::now();
    let answer = run_child(plan, job, store, repetition, &dir);
    let _ = fs::remove_dir_all(&dir);
    // What the last one left to be written is not the next one's burden.
    rustix::fs::sync();
    let (figures, error) = match answer {
        Ok(figures) => (figures, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    eprintln!(
        "{:14} {:14} {repetition} {:6.1} s  {}",
        job.name,
        store.name,
        begin.elapsed().as_secs_f64(),
        error.clone().unwrap_or_else(|| {
            let shown = figures.iter().map(|(name, figure)| {
                let short = name.strip_prefix(job.name).unwrap_or(name);
                format!("{} {figure:.2}", short.trim_start_matches('-'))
            });
            shown.collect::<Vec<_>>().join(", ")
        })
    );
    Outcome {
        job: job.name.into(),
        store: store.name.into(),
        repetition,
        scale: plan.scale,
        seconds: plan.seconds,
        figures,
        error,
    }
}

fn run_child(
    plan: &Plan,
    job: &Job,
    store: &Store,
    repetition: u64,
    dir: &Path,
) -> Result<Figures, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let says = plan.dir.join(format!("says-{}", std::process::id()));
    let complains = says.with_extension("stderr");
    let file = |path: &Path| fs::File::create(path).map_err(|error| error.to_string());
    let mut child = Command::new(program)
        .envs(job.environment.iter().copied())
        .arg("child")
        .args([job.name, store.name])
        .arg(dir)
        .args([plan.scale.to_string(), plan.seconds.to_string()])
        .arg(repetition.to_string())
        .stdin(Stdio::null())
        .stdout(file(&says)?)
        .stderr(file(&complains)?)
        .spawn()
        .map_err(|error| error.to_string())?;
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            break status;
        }
        if begin.elapsed() > CHILD_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("took over {} s", CHILD_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let printed = fs::read_to_string(&says).unwrap_or_default();
    let complaint = fs::read_to_string(&complains).unwrap_or_default();
    let _ = fs::remove_file(&says);
    let _ = fs::remove_file(&complains);
    if status.success() {
        return parse_figures(&printed).ok_or_else(|| "it printed no figures".into());
    }
    let lines: Vec<&str> = complaint.lines().map(str::trim).collect();
    let told: String = lines.join(" ").chars().take(300).collect();
    Err(format!("{status}: {told}"))
}
