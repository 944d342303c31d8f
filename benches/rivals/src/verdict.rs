//! What the figures say: medians, spreads, ratios, and whether a row is won.

use crate::results::Results;
use crate::rows::{Bar, Better, Row};
use crate::stores::{BARE, OURS, Part, STORES};
use std::collections::BTreeMap;

/// Middle and ends of some figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) count: usize,
}

impl Spread {
    pub(crate) fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self {
            median,
            low,
            high,
            count: sorted.len(),
        })
    }
}

/// A bar, and how far ours is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    pub(crate) bar: Bar,
    /// Ratio to what the bar is made of, or the figure itself.
    pub(crate) value: f64,
    pub(crate) won: bool,
}

/// A row with its figures.
pub(crate) struct Verdict {
    pub(crate) row: &'static Row,
    pub(crate) stores: BTreeMap<String, Spread>,
    /// The best of those that count.
    pub(crate) best: Option<String>,
    /// Ours over the best rival, repetition by repetition: always "more is better".
    pub(crate) ratio: Option<Spread>,
    pub(crate) reached: Vec<Reached>,
}

impl Verdict {
    /// Of a row; nothing if ours was not measured in it.
    pub(crate) fn of(row: &'static Row, results: &Results) -> Option<Self> {
        let figures = results.row(row.id);
        let stores: BTreeMap<String, Spread> = figures
            .iter()
            .filter_map(|(store, figures)| {
                Some((store.clone(), Spread::of(figures.values().copied())?))
            })
            .collect();
        if stores.is_empty() {
            return None;
        }
        let counts = |name: &str| {
            let part = STORES.iter().find(|store| store.name == name);
            match part.map(|store| store.part) {
                Some(Part::Rival | Part::Grouped | Part::Variant) => true,
                Some(Part::NeverFlushes) => !row.durable,
                // A store that this build has not is a rival all the same.
                None => name != "sled" || !row.durable,
                Some(Part::Ours | Part::Bare) => false,
            }
        };
        let best = stores
            .iter()
            .filter(|(name, _)| counts(name))
            .max_by(|(_, a), (_, b)| {
                let order = a.median.total_cmp(&b.median);
                match row.better {
                    Better::More => order,
                    Better::Less => order.reverse(),
                }
            })
            .map(|(name, _)| name.clone());
        let against = |name: &str| {
            let (ours, theirs) = (figures.get(OURS)?, figures.get(name)?);
            let ratios = ours.iter().filter_map(|(repetition, ours)| {
                let theirs = theirs.get(repetition)?;
                Some(match row.better {
                    Better::More => ours / theirs,
                    Better::Less => theirs / ours,
                })
            });
            Spread::of(ratios)
        };
        let ratio = best.as_deref().and_then(against);
        let ours = stores.get(OURS).copied();
        let reach = |bar: &Bar| {
            let (value, won) = match *bar {
                Bar::Best(least) => {
                    let value = ratio?.median;
                    (value, value >= least)
                }
                Bar::Bare(least) => {
                    let value = against(BARE)?.median;
                    (value, value >= least)
                }
                Bar::Figure(most) => {
                    let value = ours?.median;
                    (value, value <= most)
                }
            };
            Some(Reached {
                bar: *bar,
                value,
                won,
            })
        };
        Some(Self {
            reached: row.bars.iter().filter_map(reach).collect(),
            row,
            stores,
            best,
            ratio,
        })
    }

    /// Whether all bars are reached; nothing if one could not be judged.
    pub(crate) fn won(&self) -> Option<bool> {
        if self.row.bars.is_empty() || self.reached.len() < self.row.bars.len() {
            return None;
        }
        Some(self.reached.iter().all(|reached| reached.won))
    }
}
