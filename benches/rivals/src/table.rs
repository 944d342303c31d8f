//! The results as text: the verdicts, and every store's medians.

use crate::results::Results;
use crate::rows::{Bar, NEGENTROPY, ROWS};
use crate::stores::{BARE, OURS};
use crate::verdict::{Spread, Verdict};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Three digits that tell.
pub(crate) fn show(figure: f64) -> String {
    match figure {
        f if f >= 1e6 => format!("{:.2}M", f / 1e6),
        f if f >= 1e4 => format!("{:.0}k", f / 1e3),
        f if f >= 100.0 => format!("{f:.0}"),
        f if f >= 10.0 => format!("{f:.1}"),
        f => format!("{f:.2}"),
    }
}

/// A median and its ends.
pub(crate) fn spread(spread: Option<&Spread>) -> String {
    spread.map_or("-".into(), |spread| {
        let (low, high) = (show(spread.low), show(spread.high));
        format!("{} ({low} to {high})", show(spread.median))
    })
}

/// All that was measured so far.
pub(crate) fn print(results: &Results, scale: f64) -> String {
    let mut text = String::new();
    let verdicts: Vec<Verdict> = ROWS
        .iter()
        .filter_map(|row| Verdict::of(row, results))
        .collect();
    let _ = writeln!(
        text,
        "{:26} {:>24} {:>44} {:>20}  bar",
        "row", OURS, "best rival", "ratio"
    );
    let mut repetitions = usize::MAX;
    for verdict in &verdicts {
        let row = verdict.row;
        let ours = spread(verdict.stores.get(OURS));
        repetitions = repetitions.min(verdict.stores.values().map(|s| s.count).min().unwrap_or(0));
        let best = match &verdict.best {
            Some(name) => {
                let figures = spread(verdict.stores.get(name));
                format!("{name} (of {}) {figures}", verdict.rivals)
            }
            None => match NEGENTROPY.iter().find(|(id, _)| *id == row.id) {
                Some((_, figure)) => format!("negentropy {}", show(*figure)),
                None => "-".into(),
            },
        };
        let mut bars = String::new();
        for reached in &verdict.reached {
            let mark = if reached.won { "won" } else { "LOST" };
            let _ = match reached.bar {
                Bar::Best(least) => write!(bars, "{least} x best: {mark}  "),
                Bar::Bare(least) => write!(
                    bars,
                    "{least} x bare disk: {mark} ({:.2} of {})  ",
                    reached.value,
                    spread(verdict.stores.get(BARE))
                ),
                Bar::Figure(most) => write!(bars, "at most {}: {mark}  ", show(most)),
            };
        }
        let _ = writeln!(
            text,
            "{:26} {ours:>24} {best:>44} {:>20}  {}  [{}, {}]",
            row.id,
            spread(verdict.ratio.as_ref()),
            bars.trim_end(),
            row.what,
            row.unit,
        );
    }
    let judged = verdicts.iter().filter_map(Verdict::won);
    let (won, lost): (Vec<bool>, Vec<bool>) = judged.partition(|won| *won);
    let _ = writeln!(
        text,
        "\n{} rows won, {} lost, {} without a verdict; {} of {} rows measured{}",
        won.len(),
        lost.len(),
        verdicts.len() - won.len() - lost.len(),
        verdicts.len(),
        ROWS.len(),
        if scale < 1.0 {
            "; small sizes: shows that it runs, decides nothing"
        } else if repetitions < 3 {
            "; fewer than three repetitions of some rows"
        } else {
            ""
        }
    );
    grid(&verdicts, &mut text);
    for failure in results.failures() {
        let _ = writeln!(
            text,
            "failed: {} with {}, repetition {}: {}",
            failure.job,
            failure.store,
            failure.repetition,
            failure.error.as_deref().unwrap_or("")
        );
    }
    text
}

/// The stores that have figures: ours first, the bare disk last.
pub(crate) fn names_of(verdicts: &[Verdict]) -> Vec<&str> {
    let all = verdicts.iter().flat_map(|verdict| verdict.stores.keys());
    let mut names: Vec<&str> = all
        .map(String::as_str)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    names.sort_by_key(|name| (*name != OURS, *name == BARE, *name));
    names
}

/// Medians of every store.
fn grid(verdicts: &[Verdict], text: &mut String) {
    let names = names_of(verdicts);
    let _ = write!(text, "\n{:26}", "medians");
    for name in &names {
        let _ = write!(text, " {:>11}", name.chars().take(11).collect::<String>());
    }
    let _ = writeln!(text);
    for verdict in verdicts {
        let _ = write!(text, "{:26}", verdict.row.id);
        for name in &names {
            let figure = verdict.stores.get(*name).map(|spread| show(spread.median));
            let _ = write!(text, " {:>11}", figure.unwrap_or("-".into()));
        }
        let _ = writeln!(text, "  {}", verdict.row.unit);
    }
}
