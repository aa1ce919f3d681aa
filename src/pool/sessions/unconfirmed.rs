//! Tokens that were issued lately and have not come back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// For how many ticks a token that has not come back counts.
const TICKS: u32 = 60;
/// One for each of these ticks; more, so that a late thread does no harm.
const CELLS: usize = 64;

/// How many tokens were issued in each of the last ticks. A token that never comes back, such as that of
/// a health check without a cookie jar, is no session: it counts here, for a minute.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    /// The tick in the upper half, and how many in the lower.
    cells: [AtomicU64; CELLS],
}

impl Unconfirmed {
    pub(crate) fn new() -> Self {
        Self { cells: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// A token was issued at `tick`, which is at least 1.
    pub(crate) fn issue(&self, tick: u32) {
        let _ = self.cell(tick).fetch_update(Relaxed, Relaxed, |cell| {
            let (then, count) = split(cell);
            Some(join(tick, if then == tick { count.saturating_add(1) } else { 1 }))
        });
    }

    /// One of those that were issued about at `tick` has come back.
    pub(crate) fn confirm(&self, tick: u32) {
        // The token's own date may be a second off.
        for tick in [tick, tick.saturating_sub(1), tick.saturating_add(1)] {
            let confirmed = self.cell(tick).fetch_update(Relaxed, Relaxed, |cell| {
                let (then, count) = split(cell);
                (then == tick && count > 0).then(|| join(tick, count - 1))
            });
            if confirmed.is_ok() {
                return;
            }
        }
    }

    /// How many there are at the tick of `now`.
    pub(crate) fn count(&self, now: u32) -> u64 {
        let cells = self.cells.iter().map(|cell| split(cell.load(Relaxed)));
        let lately = cells.filter(|(then, _)| *then > 0 && now.saturating_sub(*then) < TICKS);
        lately.map(|(_, count)| u64::from(count)).sum()
    }

    fn cell(&self, tick: u32) -> &AtomicU64 {
        &self.cells[tick as usize % CELLS]
    }
}

fn split(cell: u64) -> (u32, u32) {
    ((cell >> 32) as u32, cell as u32)
}

fn join(tick: u32, count: u32) -> u64 {
    u64::from(tick) << 32 | u64::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_counts_for_a_minute_or_until_it_comes_back() {
        let tokens = Unconfirmed::new();
        assert_eq!(tokens.count(1), 0);
        for tick in [1, 1, 1, 30] {
            tokens.issue(tick);
        }
        assert_eq!(tokens.count(30), 4);
        tokens.confirm(1);
        tokens.confirm(31);
        assert_eq!(tokens.count(31), 2, "a second off is near enough");
        tokens.confirm(31);
        assert_eq!(tokens.count(31), 2, "it was another gateway's");
        assert_eq!((tokens.count(60), tokens.count(61)), (2, 0), "for a minute");
        tokens.issue(65);
        assert_eq!(tokens.count(65), 1, "the place of an old one is free");
    }
}
