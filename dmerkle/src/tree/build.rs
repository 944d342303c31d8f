//! Building a tree at once: applying to nothing.

use crate::tree::apply::{Applied, Apply, Change, Op};
use crate::tree::branch::Root;
use crate::tree::ground::Ground;
use crate::tree::pack::Settings;

/// Builds a tree of `entries` (key and encoded body), strictly ascending by key. The nodes are
/// packed full, but for the last two of each level, which share evenly.
pub fn build<G, K, V>(
    settings: Settings,
    entries: impl IntoIterator<Item = (K, V)>,
    ground: &mut G,
) -> Result<Applied, G::Error>
where
    G: Ground,
    K: AsRef<[u8]>,
    V: AsRef<[u8]>,
{
    let ops = entries.into_iter().map(|(key, body)| Op {
        key,
        change: Change::Put(body),
        fingerprint: None,
    });
    Apply::new(settings, Root::EMPTY, ops).run(ground)
}
