//! The results as a picture: a bar per row, how many times the best rival ours is, and where the bar
//! to reach stands. Doubling is one step wide, so twice and half are equally far from equal.

use crate::results::Results;
use crate::rows::{Bar, Better, NEGENTROPY, ROWS};
use crate::stores::OURS;
use crate::table::show;
use crate::verdict::Verdict;
use std::fmt::Write;

const LEFT: f64 = 400.0;
const WIDE: f64 = 560.0;
const RIGHT: f64 = 300.0;
const HIGH: f64 = 20.0;
const TOP: f64 = 74.0;
/// Ratios shown, as powers of two.
const STEPS: f64 = 4.0;

fn place(ratio: f64) -> f64 {
    let step = ratio.max(1e-9).log2().clamp(-STEPS, STEPS);
    LEFT + WIDE * (step + STEPS) / (2.0 * STEPS)
}

struct Line {
    what: String,
    ratio: f64,
    low: f64,
    high: f64,
    /// The ratio to reach.
    bar: Option<f64>,
    won: Option<bool>,
    rival: String,
}

fn lines(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    for row in ROWS {
        let Some(verdict) = Verdict::of(row, results) else {
            continue;
        };
        let what = row.what.replace('&', "&amp;");
        let best_bar = verdict.row.bars.iter().find_map(|bar| match bar {
            Bar::Best(least) => Some(*least),
            _ => None,
        });
        let ours = verdict.stores.get(OURS).copied();
        let figure_bar = verdict.row.bars.iter().find_map(|bar| match bar {
            Bar::Figure(most) => Some(*most),
            _ => None,
        });
        if let Some(most) = figure_bar {
            // The figure itself is asked for: shown against its bar.
            let Some(ours) = ours else { continue };
            let turned = |figure: f64| match row.better {
                Better::Less => most / figure,
                Better::More => figure / most,
            };
            let rival = match (
                &verdict.best,
                NEGENTROPY.iter().find(|(id, _)| *id == row.id),
            ) {
                (Some(best), _) => format!("; {best} {}", show(verdict.stores[best].median)),
                (None, Some((_, figure))) => format!("; negentropy {}", show(*figure)),
                (None, None) => String::new(),
            };
            lines.push(Line {
                what: format!("{what}*"),
                ratio: turned(ours.median),
                low: turned(ours.high),
                high: turned(ours.low),
                bar: Some(1.0),
                won: verdict.won(),
                rival: format!(
                    "{} {}, asked {}{rival}",
                    show(ours.median),
                    row.unit,
                    show(most)
                ),
            });
        } else if let (Some(ratio), Some(best)) = (verdict.ratio, &verdict.best) {
            lines.push(Line {
                what,
                ratio: ratio.median,
                low: ratio.low,
                high: ratio.high,
                bar: best_bar,
                won: verdict.won(),
                rival: best.clone(),
            });
        }
    }
    lines
}

/// The picture, as SVG.
pub(crate) fn draw(results: &Results, scale: f64) -> String {
    let lines = lines(results);
    let height = TOP + HIGH * lines.len() as f64 + 30.0;
    let width = LEFT + WIDE + RIGHT;
    let note = if scale < 1.0 {
        " (small sizes: shows that it runs, decides nothing)"
    } else {
        ""
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"16\">Dynomite beside the best rival of each row{note}</text>\n\
         <text x=\"16\" y=\"42\" fill=\"#555\">bar: median ratio, to the right is better; thin line: \
         all repetitions; red tick: what is asked; green: reached, orange: not, grey: not asked; *: times better than the figure asked</text>\n"
    );
    let bottom = TOP + HIGH * lines.len() as f64;
    let mut step = -STEPS;
    while step <= STEPS {
        let (x, ratio) = (place(step.exp2()), step.exp2());
        let label = if ratio < 1.0 {
            format!("1/{}", 1.0 / ratio)
        } else {
            format!("{ratio}x")
        };
        let color = if step == 0.0 { "#444" } else { "#ddd" };
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{bottom}\" stroke=\"{color}\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{label}</text>",
            TOP - 6.0,
            TOP - 10.0
        );
        step += 1.0;
    }
    for (at, line) in lines.iter().enumerate() {
        let y = TOP + HIGH * at as f64;
        let middle = y + HIGH / 2.0;
        let (equal, end) = (place(1.0), place(line.ratio));
        let color = match line.won {
            Some(true) => "#3a9d5d",
            Some(false) => "#e08a2e",
            None => "#9aa3ab",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{color}\"/>\
             <line x1=\"{}\" x2=\"{}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"#222\"/>",
            LEFT - 8.0,
            middle + 4.0,
            line.what,
            equal.min(end),
            y + 4.0,
            (end - equal).abs().max(1.0),
            HIGH - 8.0,
            place(line.low),
            place(line.high),
        );
        if let Some(bar) = line.bar {
            let x = place(bar);
            let _ = writeln!(
                svg,
                "<line x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{}\" stroke=\"#c0392b\" stroke-width=\"2\"/>",
                y + 2.0,
                y + HIGH - 2.0
            );
        }
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\"><tspan font-weight=\"bold\">{:.2}</tspan> \
             <tspan fill=\"#555\">{}</tspan></text>",
            LEFT + WIDE + 8.0,
            middle + 4.0,
            line.ratio,
            line.rival
        );
    }
    svg.push_str("</svg>\n");
    svg
}
