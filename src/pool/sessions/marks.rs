//! An estimate of many sessions: HyperLogLog over a sliding window.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::window::Window;

/// The number of HyperLogLog registers.
const REGISTERS: usize = 1 << REGISTER_BITS;
const REGISTER_BITS: u32 = 9;
/// The ranks of each register, enough for 500 million sessions.
const RANKS: usize = 20;

/// The last tick of each rank of each register; 0 for never. It takes 40 KiB.
#[derive(Debug)]
pub(super) struct Marks(Box<[AtomicU32]>);

impl Marks {
    /// The marks of sessions with these hashes and ticks.
    pub(super) fn of(sessions: impl Iterator<Item = (u64, u32)>) -> Self {
        let marks = Self((0..REGISTERS * RANKS).map(|_| AtomicU32::new(0)).collect());
        sessions.for_each(|(hash, tick)| marks.mark_at_least(hash, tick));
        marks
    }

    /// A session with this hash was seen at `tick`.
    #[inline]
    pub(super) fn mark(&self, hash: u64, tick: u32) {
        mark(&self.0[index_of(hash)], tick);
    }

    /// The same for a tick that may be older than one that was seen before.
    pub(super) fn mark_at_least(&self, hash: u64, tick: u32) {
        self.0[index_of(hash)].fetch_max(tick, Relaxed);
    }

    /// A session with this hash has ended. Another one with the same register and rank is counted again with its next
    /// request.
    pub(super) fn remove(&self, hash: u64) {
        self.0[index_of(hash)].store(0, Relaxed);
    }

    /// Whether any session was seen within the window.
    pub(super) fn any(&self, window: Window) -> bool {
        self.0.iter().any(|mark| window.contains(mark.load(Relaxed)))
    }

    /// The number of sessions that were seen within the window.
    pub(super) fn estimate(&self, window: Window) -> u64 {
        let (mut empty, mut sum) = (0u32, 0.0);
        for register in self.0.chunks_exact(RANKS) {
            let highest = register.iter().rposition(|mark| window.contains(mark.load(Relaxed)));
            let rank = highest.map_or(0, |rank| rank as i32 + 1);
            empty += u32::from(rank == 0);
            sum += f64::from(-rank).exp2();
        }
        let registers = REGISTERS as f64;
        let estimate = 0.7213 / (1.0 + 1.079 / registers) * registers * registers / sum;
        let count = if estimate <= 2.5 * registers && empty > 0 {
            registers * (registers / f64::from(empty)).ln()
        } else {
            estimate
        };
        count.round() as u64
    }

    /// The marks that are not 0, with their indexes.
    pub(super) fn used(&self) -> Vec<(u16, u32)> {
        let marks = self.0.iter().map(|mark| mark.load(Relaxed));
        (0_u16..).zip(marks).filter(|(_, tick)| *tick > 0).collect()
    }

    /// Adds a mark that [`used`](Self::used) has returned. `None` when there is no such index.
    pub(super) fn raise(&self, index: u16, tick: u32) -> Option<()> {
        self.0.get(usize::from(index))?.fetch_max(tick, Relaxed);
        Some(())
    }
}

/// The index of the register and the rank of a session with this hash.
#[inline]
fn index_of(hash: u64) -> usize {
    let register = (hash >> (64 - REGISTER_BITS)) as usize;
    let rank = (hash << REGISTER_BITS).leading_zeros().min(RANKS as u32 - 1) as usize;
    register * RANKS + rank
}

/// Stores `tick`. Writes only if it has changed, as other threads read the same cache line.
#[inline]
pub(super) fn mark(cell: &AtomicU32, tick: u32) {
    if cell.load(Relaxed) != tick {
        cell.store(tick, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_has_a_mark_of_its_register() {
        let last = u64::MAX << (64 - REGISTER_BITS);
        assert_eq!((index_of(0), index_of(last)), (RANKS - 1, REGISTERS * RANKS - 1));
    }

    #[test]
    fn the_estimate_is_that_of_hyper_log_log() {
        // One session for each register from `first` on, all of the same rank.
        let marks = |first: u64, rank: u32| {
            let registers = first..REGISTERS as u64;
            let below = 1_u64 << (64 - REGISTER_BITS - rank);
            Marks::of(registers.map(|register| (register << (64 - REGISTER_BITS) | below, 1)))
        };
        let window = Window { now: 1, ticks: 1 };
        assert_eq!(marks(0, 1).estimate(window), 737, "no register is empty");
        assert_eq!(marks(256, 1).estimate(window), 355, "by the number of empty registers");
        assert_eq!(marks(1, 10).estimate(window), 125_873, "too many for that");
    }
}
