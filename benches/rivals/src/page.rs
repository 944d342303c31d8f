//! The results as tables of a page in Markdown. What stands above the mark in the page is written by
//! hand and stays; what stands below is made anew.

use crate::results::Results;
use crate::rows::{Bar, NEGENTROPY, ROWS};
use crate::stores::{BARE, OURS};
use crate::table::{names_of, show, spread};
use crate::verdict::{Reached, Verdict};
use std::fmt::Write;
use std::path::Path;

/// Ends what is written by hand.
const MARK: &str = "<!-- below: made by `run --page`, not by hand -->\n";

/// Makes what stands below the mark anew.
pub(crate) fn update(file: &Path, results: &Results) -> std::io::Result<()> {
    let page = std::fs::read_to_string(file)?;
    let Some((by_hand, _)) = page.split_once(MARK) else {
        let told = format!("there is no line {}", MARK.trim_end());
        return Err(std::io::Error::other(told));
    };
    std::fs::write(file, format!("{by_hand}{MARK}\n{}", tables(results)))
}

fn tables(results: &Results) -> String {
    let of_rows = ROWS.iter().filter_map(|row| Verdict::of(row, results));
    let verdicts: Vec<Verdict> = of_rows.collect();
    let with = |wanted| verdicts.iter().filter(move |v| v.won() == wanted);
    let mut text = String::new();
    for (title, wanted) in [
        ("Rows that are not won", Some(false)),
        ("Rows that are won", Some(true)),
        ("Rows without a bar", None),
    ] {
        let count = with(wanted).count();
        let _ = write!(
            text,
            "## {title}: {count}\n\n\
             | row | Dynomite | best rival | ratio | asked |\n|---|---|---|---|---|\n"
        );
        for verdict in with(wanted) {
            line(verdict, &mut text);
        }
        text.push('\n');
    }
    medians(&verdicts, &mut text);
    for failure in results.failures() {
        let _ = writeln!(
            text,
            "- No figure of `{}` with {}, repetition {}: {}",
            failure.job,
            failure.store,
            failure.repetition,
            failure.error.as_deref().unwrap_or("").trim_end()
        );
    }
    text
}

fn line(verdict: &Verdict, text: &mut String) {
    let row = verdict.row;
    let best = match &verdict.best {
        Some(name) => format!("{name} {}", spread(verdict.stores.get(name))),
        None => match NEGENTROPY.iter().find(|(id, _)| *id == row.id) {
            Some((_, figure)) => format!("negentropy {}", show(*figure)),
            None => "-".into(),
        },
    };
    let asked: Vec<String> = verdict.reached.iter().map(|r| bar(r, verdict)).collect();
    let unit = if row.unit.is_empty() { "" } else { ", " };
    let _ = writeln!(
        text,
        "| {}{unit}{} | {} | {best} | {} | {} |",
        row.what,
        row.unit,
        spread(verdict.stores.get(OURS)),
        spread(verdict.ratio.as_ref()),
        asked.join("; "),
    );
}

fn bar(reached: &Reached, verdict: &Verdict) -> String {
    let missed = if reached.won { "" } else { " **missed**" };
    match reached.bar {
        Bar::Best(least) => format!("{least} x best{missed}"),
        Bar::Bare(least) => format!(
            "{least} x bare disk{missed} ({:.2} of {})",
            reached.value,
            spread(verdict.stores.get(BARE))
        ),
        Bar::Figure(most) => format!("at most {}{missed}", show(most)),
    }
}

fn medians(verdicts: &[Verdict], text: &mut String) {
    let names = names_of(verdicts);
    let _ = write!(text, "## Medians of every store\n\n| row |");
    for name in &names {
        let _ = write!(text, " {name} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(names.len()));
    for verdict in verdicts {
        let _ = write!(text, "| {} |", verdict.row.id);
        for name in &names {
            let figure = verdict.stores.get(*name).map(|spread| show(spread.median));
            let _ = write!(text, " {} |", figure.unwrap_or_default());
        }
        text.push('\n');
    }
    text.push('\n');
}
