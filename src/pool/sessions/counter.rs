//! How many sessions a backend has: an estimate in bounded memory.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{exact::ExactCounter, unconfirmed::Unconfirmed, window::Window};
use crate::hash::mix;

/// Sessions are spread over so many registers.
const REGISTERS: usize = 1 << REGISTER_BITS;
const REGISTER_BITS: u32 = 9;
/// Each register tells so many ranks apart, which is enough for 500 million sessions.
const RANKS: usize = 20;

/// The sessions that a backend has seen, and when: HyperLogLog (Flajolet, Fusy, Gandouet and Meunier,
/// 2007) over a sliding window.
///
/// Every session has a register and a rank, and marks that place with the time. Of a register only
/// the highest rank that was marked lately counts, so that the number of sessions seen within any
/// time up to now can be asked for. Up to some two hundred are known one by one, and counted exactly;
/// more are estimated, and off by 4.6 % (1.04 / √512, one standard deviation).
///
/// It takes 44 KiB, once the first session was seen.
#[derive(Debug, Default)]
pub(crate) struct SessionCounter {
    sessions: OnceLock<Sessions>,
    /// The same for requests whose sessions cannot be told apart.
    anonymous: AtomicU32,
    /// The same for sessions that somebody remembers; the others are nobody's.
    remembered: AtomicU32,
    /// Tokens that have not come back, once one was issued.
    unconfirmed: OnceLock<Box<Unconfirmed>>,
}

#[derive(Debug)]
struct Sessions {
    exact: ExactCounter,
    /// The ticks at which the places were marked last; 0 for never.
    marks: Box<[AtomicU32]>,
}

impl SessionCounter {
    /// A session was here at `tick`, which is at least 1. Without a key it is one of those that cannot
    /// be told apart. Tells whether it is new here, as far as is known.
    #[inline]
    pub(crate) fn record(&self, session: Option<u64>, remembered: bool, tick: u32) -> bool {
        if remembered {
            mark(&self.remembered, tick);
        }
        let Some(session) = session else {
            mark(&self.anonymous, tick);
            return false;
        };
        self.record_session(session, tick)
    }

    #[inline(never)]
    fn record_session(&self, session: u64, tick: u32) -> bool {
        let sessions = self.sessions.get_or_init(Sessions::new);
        let hash = hash_of(session);
        mark(&sessions.marks[cell_index(hash)], tick);
        sessions.exact.record(session.max(1), hash, tick)
    }

    /// A token was issued, for a session that counts once it comes back.
    #[cold]
    pub(crate) fn token_issued(&self, tick: u32) {
        self.unconfirmed.get_or_init(|| Box::new(Unconfirmed::new())).issue(tick);
    }

    /// A token that was issued about at `tick` has come back.
    #[cold]
    pub(crate) fn token_returned(&self, tick: u32) {
        if let Some(unconfirmed) = self.unconfirmed.get() {
            unconfirmed.confirm(tick);
        }
    }

    /// How many tokens were issued in the last minute and have not come back.
    pub(crate) fn unconfirmed(&self, now: u32) -> u64 {
        self.unconfirmed.get().map_or(0, |unconfirmed| unconfirmed.count(now))
    }

    /// At least so many sessions are there.
    pub(crate) fn seen(&self, window: Window) -> u64 {
        self.count(window).unwrap_or_else(|| {
            let known = self.sessions.get();
            let count = known.map_or(0, |known| known.exact.count(window).unwrap_or(1));
            count.max(1)
        })
    }

    /// A session has ended, or is elsewhere now. One that shares its place is counted again when it
    /// is seen the next time.
    pub(crate) fn remove(&self, session: u64) {
        if let Some(sessions) = self.sessions.get() {
            let hash = hash_of(session);
            sessions.exact.remove(session.max(1), hash);
            sessions.marks[cell_index(hash)].store(0, Relaxed);
        }
    }

    /// About how many sessions there are; `None` when they cannot be told apart.
    pub(crate) fn count(&self, window: Window) -> Option<u64> {
        if window.contains(self.anonymous.load(Relaxed)) {
            return None;
        }
        let Some(sessions) = self.sessions.get() else {
            return Some(0);
        };
        Some(sessions.exact.count(window).unwrap_or_else(|| sessions.estimate(window)))
    }

    /// Whether no session is there that somebody remembers, and none may come with a token that was
    /// issued just now.
    pub(crate) fn is_empty(&self, window: Window) -> bool {
        if self.unconfirmed(window.now) > 0 {
            return false;
        }
        if !window.contains(self.remembered.load(Relaxed)) {
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

/// Written once a tick only: other threads read it too.
#[inline]
fn mark(mark: &AtomicU32, tick: u32) {
    if mark.load(Relaxed) != tick {
        mark.store(tick, Relaxed);
    }
}

/// A session's key may be chosen by its user, so it is mixed first.
#[inline]
fn hash_of(session: u64) -> u64 {
    mix(session ^ 0x5e55_1043)
}

/// Where a session leaves its mark.
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
    fn few_sessions_are_counted_and_many_estimated() {
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
    fn numbers_in_a_row_are_as_good_as_any() {
        let counter = SessionCounter::default();
        for session in 0..10_000 {
            counter.record(Some(session), true, 1);
        }
        let count = counter.count(window(1, 0)).unwrap();
        assert!(count.abs_diff(10_000) < 1200, "10,000 users were counted as {count}");
    }

    #[test]
    fn only_those_who_were_seen_lately_count() {
        let counter = SessionCounter::default();
        counter.record(Some(1), true, 1);
        counter.record(Some(2), true, 50);
        assert_eq!(counter.count(window(50, 60)), Some(2));
        assert_eq!(counter.count(window(62, 60)), Some(1), "the first was seen 61 ticks ago");
        assert!(!counter.is_empty(window(110, 60)));
        assert!(counter.is_empty(window(111, 60)));
    }

    #[test]
    fn who_has_left_does_not_count() {
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
    fn sessions_that_cannot_be_told_apart_are_not_counted() {
        let counter = SessionCounter::default();
        counter.record(None, true, 5);
        assert_eq!(counter.count(window(5, 60)), None);
        assert!(!counter.is_empty(window(65, 60)));
        assert!(counter.is_empty(window(66, 60)));
    }

    #[test]
    fn whom_nobody_remembers_holds_nothing_up() {
        let counter = SessionCounter::default();
        counter.record(Some(1), false, 5);
        assert_eq!(counter.count(window(5, 60)), Some(1));
        assert!(counter.is_empty(window(5, 60)));
    }
}
