//! Counts the sessions of a backend in bounded memory.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{exact::ExactCounter, unconfirmed::Unconfirmed, window::Window};
use crate::hash::mix;

/// The number of HyperLogLog registers.
const REGISTERS: usize = 1 << REGISTER_BITS;
const REGISTER_BITS: u32 = 9;
/// The ranks of each register, enough for 500 million sessions.
const RANKS: usize = 20;

/// The sessions that a backend has seen, and when: HyperLogLog (Flajolet, Fusy, Gandouet and Meunier,
/// 2007) over a sliding window.
///
/// A session is hashed to a register and a rank, where the tick of its last request is stored. The
/// highest rank of each register with a tick within the window gives the number of sessions seen in any
/// time up to now. Up to about two hundred sessions are counted exactly. More are estimated, with a
/// standard error of 4.6 % (1.04 / √512).
///
/// It takes 44 KiB, allocated with the first session.
#[derive(Debug, Default)]
pub(crate) struct SessionCounter {
    pub(super) sessions: OnceLock<Sessions>,
    /// The tick of the last request whose session cannot be told apart from others.
    pub(super) anonymous: AtomicU32,
    /// The last tick at which a session with a stored pin was seen.
    pub(super) pinned: AtomicU32,
    /// Issued tokens that have not been sent back, allocated with the first one.
    pub(super) unconfirmed: OnceLock<Box<Unconfirmed>>,
}

#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) exact: ExactCounter,
    /// The last tick of each rank of each register; 0 for never.
    pub(super) marks: Box<[AtomicU32]>,
}

impl SessionCounter {
    /// Records a request of a session at `tick`, which is at least 1. `session` is `None` if it cannot be
    /// told apart from others; `has_pin` if its pin is stored somewhere. Returns whether the session was
    /// not known yet.
    #[inline]
    pub(crate) fn record(&self, session: Option<u64>, has_pin: bool, tick: u32) -> bool {
        if has_pin {
            mark(&self.pinned, tick);
        }
        let Some(session) = session else {
            mark(&self.anonymous, tick);
            return false;
        };
        self.record_session(session, tick)
    }

    pub(super) fn sessions(&self) -> &Sessions {
        self.sessions.get_or_init(Sessions::new)
    }

    /// Records a session in the exact counter only.
    pub(super) fn record_exactly(&self, session: u64, tick: u32) {
        self.sessions().exact.record(session, hash_of(session), tick);
    }

    #[inline(never)]
    fn record_session(&self, session: u64, tick: u32) -> bool {
        let sessions = self.sessions();
        let hash = hash_of(session);
        mark(&sessions.marks[cell_index(hash)], tick);
        sessions.exact.record(session.max(1), hash, tick)
    }

    /// Records that a token was issued. Its session counts when the token is sent back.
    #[cold]
    pub(crate) fn token_issued(&self, tick: u32) {
        self.unconfirmed.get_or_init(|| Box::new(Unconfirmed::new())).issue(tick);
    }

    /// Records that a token issued at about `tick` was sent back.
    #[cold]
    pub(crate) fn token_returned(&self, tick: u32) {
        if let Some(unconfirmed) = self.unconfirmed.get() {
            unconfirmed.confirm(tick);
        }
    }

    /// How many tokens were issued in the last minute and have not been sent back.
    pub(crate) fn unconfirmed(&self, now: u32) -> u64 {
        self.unconfirmed.get().map_or(0, |unconfirmed| unconfirmed.count(now))
    }

    /// A lower bound of the number of sessions.
    pub(crate) fn seen(&self, window: Window) -> u64 {
        self.count(window).unwrap_or_else(|| {
            let known = self.sessions.get();
            let count = known.map_or(0, |known| known.exact.count(window).unwrap_or(1));
            count.max(1)
        })
    }

    /// Removes a session that has ended or moved. A session with the same register and rank is counted
    /// again with its next request.
    pub(crate) fn remove(&self, session: u64) {
        if let Some(sessions) = self.sessions.get() {
            let hash = hash_of(session);
            sessions.exact.remove(session.max(1), hash);
            sessions.marks[cell_index(hash)].store(0, Relaxed);
        }
    }

    /// The number of sessions, exact or estimated; `None` when they cannot be told apart.
    pub(crate) fn count(&self, window: Window) -> Option<u64> {
        if window.contains(self.anonymous.load(Relaxed)) {
            return None;
        }
        let Some(sessions) = self.sessions.get() else {
            return Some(0);
        };
        Some(sessions.exact.count(window).unwrap_or_else(|| sessions.estimate(window)))
    }

    /// Whether no session with a stored pin was seen within the window, and no token was issued within the
    /// last minute that may still be sent back.
    pub(crate) fn is_empty(&self, window: Window) -> bool {
        if self.unconfirmed(window.now) > 0 {
            return false;
        }
        if !window.contains(self.pinned.load(Relaxed)) {
            return true;
        }
        !window.contains(self.anonymous.load(Relaxed))
            && self.sessions.get().is_none_or(|sessions| match sessions.exact.count(window) {
                Some(count) => count == 0,
                None => !sessions.marks.iter().any(|mark| window.contains(mark.load(Relaxed))),
            })
    }
}

impl Sessions {
    fn new() -> Self {
        let marks = (0..REGISTERS * RANKS).map(|_| AtomicU32::new(0)).collect();
        Self { exact: ExactCounter::new(), marks }
    }

    fn estimate(&self, window: Window) -> u64 {
        let (mut empty, mut sum) = (0u32, 0.0);
        for register in self.marks.chunks_exact(RANKS) {
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
}

/// Stores `tick`. Writes only if it has changed, as other threads read the same cache line.
#[inline]
fn mark(cell: &AtomicU32, tick: u32) {
    if cell.load(Relaxed) != tick {
        cell.store(tick, Relaxed);
    }
}

/// Hashes a session's key, which its user may have chosen.
#[inline]
fn hash_of(session: u64) -> u64 {
    mix(session ^ 0x5e55_1043)
}

/// The index of the session's register and rank.
#[inline]
fn cell_index(hash: u64) -> usize {
    let register = (hash >> (64 - REGISTER_BITS)) as usize;
    let rank = (hash << REGISTER_BITS).leading_zeros().min(RANKS as u32 - 1) as usize;
    register * RANKS + rank
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::testing::Numbers;

    fn window(now: u32, ticks: u32) -> Window {
        Window { now, ticks }
    }

    #[test]
    fn few_sessions_are_counted_exactly_and_many_are_estimated() {
        let (counter, mut numbers) = (SessionCounter::default(), Numbers(7));
        assert_eq!(counter.count(window(1, 60)), Some(0));
        let mut seen = 0;
        for (sessions, tolerance) in [(1, 0.0), (3, 0.0), (40, 0.03), (1000, 0.1), (100_000, 0.12)]
        {
            while seen < sessions {
                let session = numbers.next();
                counter.record(Some(session), true, 1);
                counter.record(Some(session), true, 1);
                seen += 1;
            }
            let count = counter.count(window(1, 60)).unwrap();
            let error = (count as f64 - sessions as f64).abs() / sessions as f64;
            assert!(error <= tolerance, "{sessions} sessions were counted as {count}");
        }
    }

    #[test]
    fn consecutive_keys_do_not_skew_the_estimate() {
        let counter = SessionCounter::default();
        for session in 0..10_000 {
            counter.record(Some(session), true, 1);
        }
        let count = counter.count(window(1, 0)).unwrap();
        assert!(count.abs_diff(10_000) < 1200, "10,000 users were counted as {count}");
    }

    #[test]
    fn only_sessions_seen_within_the_window_count() {
        let counter = SessionCounter::default();
        counter.record(Some(1), true, 1);
        counter.record(Some(2), true, 50);
        assert_eq!(counter.count(window(50, 60)), Some(2));
        assert_eq!(counter.count(window(62, 60)), Some(1), "the first was seen 61 ticks ago");
        assert!(!counter.is_empty(window(110, 60)));
        assert!(counter.is_empty(window(111, 60)));
    }

    #[test]
    fn removed_sessions_do_not_count() {
        let counter = SessionCounter::default();
        for session in 1..=3 {
            counter.record(Some(session), true, 1);
        }
        counter.remove(2);
        assert_eq!(counter.count(window(1, 60)), Some(2));
        counter.remove(1);
        counter.remove(3);
        assert!(counter.is_empty(window(1, 60)));
    }

    #[test]
    fn sessions_that_cannot_be_told_apart_have_no_count() {
        let counter = SessionCounter::default();
        counter.record(None, true, 5);
        assert_eq!(counter.count(window(5, 60)), None);
        assert!(!counter.is_empty(window(65, 60)));
        assert!(counter.is_empty(window(66, 60)));
    }

    #[test]
    fn sessions_without_a_stored_pin_leave_the_counter_empty() {
        let counter = SessionCounter::default();
        counter.record(Some(1), false, 5);
        assert_eq!(counter.count(window(5, 60)), Some(1));
        assert!(counter.is_empty(window(5, 60)));
    }

    #[test]
    fn every_hash_has_a_cell_of_its_register() {
        let last = u64::MAX << (64 - REGISTER_BITS);
        assert_eq!((cell_index(0), cell_index(last)), (RANKS - 1, REGISTERS * RANKS - 1));
    }
}
