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
    /// How many rivals were measured and count.
    pub(crate) rivals: usize,
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
        let rivals = stores.keys().filter(|name| counts(name)).count();
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
            rivals,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Outcome;
    use crate::rows::ROWS;

    /// Results of one row: a store, and its figures by repetition.
    fn verdict(row: &str, figures: &[(&str, &[f64])]) -> Verdict {
        let row = ROWS.iter().find(|known| known.id == row).expect("a row");
        let mut results = Results::default();
        for (store, figures) in figures {
            for (repetition, figure) in (0..).zip(*figures) {
                results.keep(Outcome {
                    job: row.id.into(),
                    store: (*store).into(),
                    repetition,
                    scale: 1.0,
                    seconds: 1.0,
                    figures: vec![(row.id.into(), *figure)],
                    error: None,
                });
            }
        }
        Verdict::of(row, &results).expect("figures")
    }

    #[test]
    fn a_row_is_won_when_the_median_ratio_reaches_every_bar() {
        let bare: (&str, &[f64]) = (BARE, &[20.0, 20.0, 20.0]);
        let won = [(OURS, &[16.0, 15.0, 9.0][..]), ("fjall", &[10.0; 3]), bare];
        let won = verdict("put-150-1", &won);
        assert_eq!(won.ratio.map(|ratio| ratio.median), Some(1.5));
        assert_eq!(won.won(), Some(true));
        // 1.2 times the best rival, but 0.6 of the bare disk.
        let lost = [(OURS, &[12.0; 3][..]), ("fjall", &[10.0; 3]), bare];
        assert_eq!(verdict("put-150-1", &lost).won(), Some(false));
        // Without the bare disk nobody can say.
        let unknown = verdict("put-150-1", &lost[..2]);
        assert_eq!(unknown.won(), None);
    }

    #[test]
    fn who_never_flushes_counts_only_where_nobody_does() {
        let figures = [(OURS, &[5.0][..]), ("sled", &[9.0]), ("fjall", &[4.0])];
        assert_eq!(
            verdict("put-150-1", &figures).best.as_deref(),
            Some("fjall")
        );
        assert_eq!(verdict("ycsb-a", &figures).best.as_deref(), Some("sled"));
    }

    #[test]
    fn less_is_better_where_the_row_says_so() {
        let figures = [(OURS, &[0.4][..]), ("redb", &[0.8]), ("fjall", &[2.0])];
        let verdict = verdict("kill9-open", &figures);
        assert_eq!(verdict.best.as_deref(), Some("redb"));
        assert_eq!(verdict.ratio.map(|ratio| ratio.median), Some(2.0));
        assert_eq!(verdict.won(), Some(true));
    }
}
