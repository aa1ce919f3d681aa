//! Counts recently issued tokens that have not been sent back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// For how many ticks an unconfirmed token counts.
const TICKS: u32 = 60;
/// One cell for each tick, and some spare ones for threads that are late.
const CELLS: usize = 64;

/// The number of tokens issued in each of the last ticks. A token that is never sent back, such as that of
/// a health check without a cookie jar, is not a session. It counts here for a minute.
#[derive(Debug)]
pub(crate) struct Unconfirmed {
    /// The tick in the upper half, and the number of tokens in the lower half.
    cells: [AtomicU64; CELLS],
}

impl Unconfirmed {
    pub(crate) fn new() -> Self {
        Self { cells: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Counts a token that was issued at `tick`, which is at least 1.
    pub(crate) fn issue(&self, tick: u32) {
        let _ = self.cell(tick).fetch_update(Relaxed, Relaxed, |cell| {
            let (then, count) = split(cell);
            Some(join(tick, if then == tick { count.saturating_add(1) } else { 1 }))
        });
    }

    /// Removes one token that was issued at about `tick`, as it was sent back.
    pub(crate) fn confirm(&self, tick: u32) {
        // The date in the token may differ by a second.
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

    /// The number of unconfirmed tokens at tick `now`.
    pub(crate) fn count(&self, now: u32) -> u64 {
        let cells = self.cells.iter().map(|cell| split(cell.load(Relaxed)));
        let recent = cells.filter(|(then, _)| *then > 0 && now.saturating_sub(*then) < TICKS);
        recent.map(|(_, count)| u64::from(count)).sum()
    }

    /// The cells that are not empty.
    pub(super) fn cells(&self) -> Vec<u64> {
        self.cells.iter().map(|cell| cell.load(Relaxed)).filter(|cell| *cell > 0).collect()
    }

    /// Sets a cell as [`cells`](Self::cells) has returned it.
    pub(super) fn restore(&self, cell: u64) {
        self.cell(split(cell).0).store(cell, Relaxed);
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
    fn token_counts_for_a_minute_or_until_it_is_sent_back() {
        let tokens = Unconfirmed::new();
        assert_eq!(tokens.count(1), 0);
        for tick in [1, 1, 1, 30] {
            tokens.issue(tick);
        }
        assert_eq!(tokens.count(30), 4);
        tokens.confirm(1);
        tokens.confirm(31);
        assert_eq!(tokens.count(31), 2, "a difference of one second is accepted");
        tokens.confirm(31);
        assert_eq!(tokens.count(31), 2, "the token was issued by another gateway");
        assert_eq!((tokens.count(60), tokens.count(61)), (2, 0), "tokens expire after a minute");
        tokens.issue(65);
        assert_eq!(tokens.count(65), 1, "the cell of an old tick is reused");
    }
}
