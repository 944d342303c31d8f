//! Draws the figures: small charts, both axes logarithmic where that helps.

use std::fmt::Write as _;

/// What one chart shows: fields of the lines, and their names.
struct Chart {
    title: &'static str,
    x: &'static str,
    lines: &'static [(&'static str, &'static str, f64)],
    logarithmic: bool,
}

const MIB: f64 = 1.0 / 1_048_576.0;

const CHARTS: [Chart; 9] = [
    Chart {
        title: "depth: nodes read by the first get",
        x: "entries",
        lines: &[("depth", "levels", 1.0)],
        logarithmic: false,
    },
    Chart {
        title: "space held over keys and values",
        x: "entries",
        lines: &[("held_over_live", "file / live", 1.0)],
        logarithmic: false,
    },
    Chart {
        title: "get, µs",
        x: "entries",
        lines: &[
            ("get_hot_us", "leaves in the cache", 1.0),
            ("get_cold_us", "after opening", 1.0),
        ],
        logarithmic: true,
    },
    Chart {
        title: "memory after 100,000 gets, MiB",
        x: "entries",
        lines: &[
            ("resident_mib", "resident", 1.0),
            ("cache_mib", "of that the cache", 1.0),
        ],
        logarithmic: false,
    },
    Chart {
        title: "nodes written by a checkpoint, MiB",
        x: "entries",
        lines: &[
            ("checkpoint_node_bytes", "of 10,000 changes", MIB),
            ("checkpoint_many_node_bytes", "of 150,000 changes", MIB),
        ],
        logarithmic: true,
    },
    Chart {
        title: "the same checkpoints, ms",
        x: "entries",
        lines: &[
            ("checkpoint_ms", "of 10,000 changes", 1.0),
            ("checkpoint_many_ms", "of 150,000 changes", 1.0),
        ],
        logarithmic: true,
    },
    Chart {
        title: "opening, to the first get, ms",
        x: "entries",
        lines: &[
            ("reopen_ms", "killed with 150,000 changes in the log", 1.0),
            ("open_ms", "closed (without the get)", 1.0),
        ],
        logarithmic: true,
    },
    Chart {
        title: "diff with 100 changes: bytes both ways",
        x: "entries",
        lines: &[("diff_bytes", "bytes", 1.0)],
        logarithmic: true,
    },
    Chart {
        title: "the same, ms",
        x: "entries",
        lines: &[
            ("diff_cpu_ms", "processor, each side", 1.0),
            ("diff_cold_ms", "both sides, cache cold", 1.0),
        ],
        logarithmic: true,
    },
];

const COLOURS: [&str; 2] = ["#1f6fb4", "#d1662a"];
const WIDTH: f64 = 330.0;
const HEIGHT: f64 = 240.0;
/// From a chart's corner to its axes.
const LEFT: f64 = 58.0;
const TOP: f64 = 30.0;
const RIGHT: f64 = 14.0;
const BOTTOM: f64 = 34.0;

/// The picture of these lines of JSON, each flat.
pub(crate) fn draw(lines: &str) -> String {
    let rows: Vec<&str> = lines.lines().collect();
    let columns = 3.0;
    let (width, height) = (WIDTH * columns, HEIGHT * 3.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    let (mut x, mut y) = (0.0, 0.0);
    for chart in &CHARTS {
        let _ = writeln!(svg, "<g transform=\"translate({x},{y})\">");
        draw_chart(&mut svg, chart, &rows);
        svg.push_str("</g>\n");
        x += WIDTH;
        if x >= width {
            (x, y) = (0.0, y + HEIGHT);
        }
    }
    svg + "</svg>\n"
}

fn field(row: &str, name: &str) -> Option<f64> {
    let (_, rest) = row.split_once(&format!("\"{name}\": "))?;
    let end = rest.find([',', '}'])?;
    rest[..end].parse().ok()
}

/// A number's place between two others, both kinds of axis.
fn share(value: f64, (low, high): (f64, f64), logarithmic: bool) -> f64 {
    if logarithmic {
        (value / low).ln() / (high / low).ln()
    } else {
        (value - low) / (high - low)
    }
}

fn draw_chart(svg: &mut String, chart: &Chart, rows: &[&str]) {
    let points = |name: &str, scale: f64| -> Vec<(f64, f64)> {
        let of = |row: &&str| Some((field(row, chart.x)?, field(row, name)? * scale));
        rows.iter().filter_map(of).collect()
    };
    let series: Vec<_> = chart
        .lines
        .iter()
        .map(|(name, title, scale)| (title, points(name, *scale)))
        .collect();
    let all: Vec<(f64, f64)> = series.iter().flat_map(|(_, p)| p.clone()).collect();
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"16\" font-weight=\"bold\">{}</text>",
        chart.title
    );
    let Some(first) = all.first() else {
        return;
    };
    let range = |of: fn(&(f64, f64)) -> f64| {
        all.iter()
            .map(of)
            .fold((of(first), of(first)), |(low, high), value| {
                (low.min(value), high.max(value))
            })
    };
    let (x_low, x_high) = range(|point| point.0);
    let xs = (x_low * 0.8, x_high * 1.25);
    let (low, high) = range(|point| point.1);
    let ys = if chart.logarithmic {
        (
            decade(low).min(low * 0.9),
            (decade(high * 0.999) * 10.0).max(high),
        )
    } else {
        (0.0, high * 1.25)
    };
    let frame = Frame {
        xs,
        ys,
        logarithmic: chart.logarithmic,
    };
    frame.draw_axes(svg, chart.x, &all);
    for (at, (title, points)) in series.iter().enumerate() {
        frame.draw_line(svg, at, title, points);
    }
}

/// A chart's axes.
struct Frame {
    xs: (f64, f64),
    ys: (f64, f64),
    logarithmic: bool,
}

const END: f64 = WIDTH - RIGHT;
const FLOOR: f64 = HEIGHT - BOTTOM;

impl Frame {
    fn at_x(&self, x: f64) -> f64 {
        LEFT + share(x, self.xs, true) * (END - LEFT)
    }

    fn at_y(&self, y: f64) -> f64 {
        FLOOR - share(y, self.ys, self.logarithmic) * (FLOOR - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        let (low, high) = self.ys;
        if self.logarithmic {
            let powers = (0..12).scan(decade(low), |tick, _| {
                let now = *tick;
                *tick *= 10.0;
                Some(now)
            });
            powers
                .filter(|tick| (low * 0.999..=high * 1.001).contains(tick))
                .collect()
        } else {
            let step = nice(high / 5.0);
            (0..8)
                .map(|at| f64::from(at) * step)
                .filter(|tick| *tick <= high)
                .collect()
        }
    }

    fn draw_axes(&self, svg: &mut String, title: &str, all: &[(f64, f64)]) {
        for tick in self.ticks() {
            let y = self.at_y(tick);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}H{END}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 5.0,
                y + 4.0,
                short(tick)
            );
        }
        let mut seen: Vec<f64> = Vec::new();
        for (x, _) in all {
            if !seen.contains(x) {
                seen.push(*x);
                let _ = writeln!(
                    svg,
                    "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                    self.at_x(*x),
                    FLOOR + 16.0,
                    short(*x)
                );
            }
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{FLOOR}H{END}\" stroke=\"#444\" fill=\"none\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, END),
            FLOOR + 30.0,
            title
        );
    }

    fn draw_line(&self, svg: &mut String, at: usize, title: &str, points: &[(f64, f64)]) {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{:.1} {:.1}", self.at_x(*x), self.at_y(*y)))
            .collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
            path.join("L")
        );
        for (x, y) in points {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                self.at_x(*x),
                self.at_y(*y)
            );
        }
        let line = TOP + 8.0 + 14.0 * [0.0, 1.0][at % 2];
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{line}\" fill=\"{colour}\">{title}</text>",
            LEFT + 8.0
        );
    }
}

/// The power of ten at or below.
fn decade(value: f64) -> f64 {
    10f64.powf(value.max(1e-9).log10().floor())
}

/// 1, 2 or 5 times a power of ten, at or above.
fn nice(value: f64) -> f64 {
    let base = decade(value);
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * base);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(base * 10.0)
}

fn short(value: f64) -> String {
    if value >= 1e6 {
        format!("{} M", value / 1e6)
    } else if value >= 1e4 {
        format!("{} k", value / 1e3)
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    }
}
