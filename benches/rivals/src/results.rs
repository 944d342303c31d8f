//! Results: a JSON line per job, store and repetition. What a file has is not measured again.

use crate::jobs::Figures;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// What one child measured.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) job: String,
    pub(crate) store: String,
    pub(crate) repetition: u64,
    pub(crate) scale: f64,
    pub(crate) seconds: f64,
    pub(crate) figures: Vec<(String, f64)>,
    pub(crate) error: Option<String>,
}

impl Outcome {
    /// As a line.
    pub(crate) fn to_line(&self) -> String {
        let figures: Map<String, Value> = self
            .figures
            .iter()
            .map(|(name, figure)| (name.clone(), json!(figure)))
            .collect();
        json!({
            "job": self.job,
            "store": self.store,
            "repetition": self.repetition,
            "scale": self.scale,
            "seconds": self.seconds,
            "figures": figures,
            "error": self.error,
        })
        .to_string()
    }

    fn from_line(line: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(line).ok()?;
        let figures = value.get("figures")?.as_object()?;
        let text = |name: &str| Some(value.get(name)?.as_str()?.to_string());
        Some(Self {
            job: text("job")?,
            store: text("store")?,
            repetition: value.get("repetition")?.as_u64()?,
            scale: value.get("scale")?.as_f64()?,
            seconds: value.get("seconds")?.as_f64()?,
            figures: figures
                .iter()
                .filter_map(|(name, figure)| Some((name.clone(), figure.as_f64()?)))
                .collect(),
            error: text("error"),
        })
    }
}

/// All outcomes of one size.
#[derive(Default)]
pub(crate) struct Results {
    outcomes: Vec<Outcome>,
}

impl Results {
    /// What a file has of this size; nothing if there is no file.
    pub(crate) fn read(file: &Path, scale: f64, seconds: f64) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let outcomes = text.lines().filter_map(Outcome::from_line);
        let same = |outcome: &Outcome| outcome.scale == scale && outcome.seconds == seconds;
        Self {
            outcomes: outcomes.filter(same).collect(),
        }
    }

    /// Adds an outcome, to the file first.
    pub(crate) fn add(&mut self, file: &Path, outcome: Outcome) {
        let line = outcome.to_line() + "\n";
        let mut opened = OpenOptions::new()
            .create(true)
            .append(true)
            .open(file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        opened.write_all(line.as_bytes()).expect("a result is kept");
        self.keep(outcome);
    }

    /// Adds an outcome.
    pub(crate) fn keep(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Whether this was measured. A failure is tried again.
    pub(crate) fn has(&self, job: &str, store: &str, repetition: u64) -> bool {
        self.outcomes.iter().any(|outcome| {
            let same = outcome.job == job && outcome.store == store;
            same && outcome.repetition == repetition && outcome.error.is_none()
        })
    }

    /// The figures of a row: for each store, by repetition.
    pub(crate) fn row(&self, row: &str) -> BTreeMap<String, BTreeMap<u64, f64>> {
        let mut found: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
        for outcome in &self.outcomes {
            for (name, figure) in &outcome.figures {
                // A figure may belong to a variant of the store.
                let (name, store) = name.split_once('@').unwrap_or((name, &outcome.store));
                if name == row {
                    let figures = found.entry(store.to_string()).or_default();
                    figures.insert(outcome.repetition, *figure);
                }
            }
        }
        found
    }

    /// What failed and was not measured since.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Outcome> {
        let failed = |outcome: &&Outcome| {
            outcome.error.is_some() && !self.has(&outcome.job, &outcome.store, outcome.repetition)
        };
        self.outcomes.iter().filter(failed)
    }
}

/// The figures that a child prints.
pub(crate) fn print_figures(figures: &Figures) {
    let figures: Map<String, Value> = figures
        .iter()
        .map(|(name, figure)| (name.clone(), json!(figure)))
        .collect();
    println!("figures {}", Value::Object(figures));
}

/// The same, read from what it printed.
pub(crate) fn parse_figures(printed: &str) -> Option<Figures> {
    let line = printed
        .lines()
        .find_map(|line| line.strip_prefix("figures "))?;
    let value: Value = serde_json::from_str(line).ok()?;
    let pairs = value.as_object()?.iter();
    Some(
        pairs
            .filter_map(|(name, figure)| Some((name.clone(), figure.as_f64()?)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_all_that_was_measured() {
        let outcome = Outcome {
            job: "reads".into(),
            store: "bare disk".into(),
            repetition: 2,
            scale: 0.01,
            seconds: 0.1,
            figures: vec![("get-1".into(), 3.5)],
            error: Some("it \"broke\"".into()),
        };
        let line = outcome.to_line();
        assert_eq!(Outcome::from_line(&line).expect("a line").to_line(), line);
        assert!(Outcome::from_line("half a li").is_none());
    }

    #[test]
    fn a_failure_is_tried_again_and_a_figure_is_not() {
        let mut results = Results::default();
        let mut outcome = Outcome {
            job: "reads".into(),
            store: "redb".into(),
            repetition: 0,
            scale: 1.0,
            seconds: 1.0,
            figures: Vec::new(),
            error: Some("no space".into()),
        };
        results.keep(outcome.clone());
        assert!(!results.has("reads", "redb", 0));
        assert_eq!(results.failures().count(), 1);
        outcome.error = None;
        results.keep(outcome);
        assert!(results.has("reads", "redb", 0));
        assert_eq!(results.failures().count(), 0);
    }
}
