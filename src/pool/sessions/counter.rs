//! Counts the sessions of a backend in bounded memory.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{
    exact::{ExactCounter, Recorded},
    marks::{Marks, mark},
    unconfirmed::Unconfirmed,
    window::Window,
};
use crate::hash::mix;

/// The sessions that a backend has seen, and when: HyperLogLog (Flajolet, Fusy, Gandouet and Meunier,
/// 2007) over a sliding window.
///
/// A session is hashed to a register and a rank, where the tick of its last request is stored. The
/// highest rank of each register with a tick within the window gives the number of sessions seen in any
/// time up to now. Up to about two hundred sessions are counted exactly. More are estimated, with a
/// standard error of 4.6 % (1.04 / √512).
///
/// It takes 4 KiB, allocated with the first session, and another 40 KiB from the first session on for which the exact
/// count has no room.
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
    /// Allocated with the first session that `exact` has no room for, with the marks of all before.
    pub(super) marks: OnceLock<Marks>,
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

    #[inline(never)]
    fn record_session(&self, session: u64, tick: u32) -> bool {
        let (sessions, session) = (self.sessions(), session.max(1));
        let hash = hash_of(session);
        let recorded = sessions.exact.record(session, hash, tick);
        // One that is recorded while another thread allocates the marks may get its mark with its next request.
        match (sessions.marks.get(), recorded) {
            (Some(marks), _) => marks.mark(hash, tick),
            (None, Recorded::New | Recorded::Known) => {}
            (None, Recorded::NoRoom { .. }) => sessions.marks().mark(hash, tick),
        }
        matches!(recorded, Recorded::New | Recorded::NoRoom { is_first: true })
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
            let session = session.max(1);
            let hash = hash_of(session);
            sessions.exact.remove(session, hash);
            if let Some(marks) = sessions.marks.get() {
                marks.remove(hash);
            }
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
        Some(sessions.exact.count(window).unwrap_or_else(|| sessions.marks().estimate(window)))
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
                None => !sessions.exact.any(window) && !sessions.marks().any(window),
            })
    }
}

impl Sessions {
    fn new() -> Self {
        Self { exact: ExactCounter::new(), marks: OnceLock::new() }
    }

    #[cold]
    pub(super) fn marks(&self) -> &Marks {
        let of_exact = || self.exact.sessions().map(|(session, tick)| (hash_of(session), tick));
        self.marks.get_or_init(|| Marks::of(of_exact()))
    }

    /// Adds a session of another process. `has_mark`: the marks of that process were added.
    pub(super) fn restore(&self, session: u64, tick: u32, has_mark: bool) {
        let session = session.max(1);
        let hash = hash_of(session);
        match (self.exact.record(session, hash, tick), self.marks.get()) {
            _ if has_mark => {}
            (_, Some(marks)) => marks.mark_at_least(hash, tick),
            (Recorded::NoRoom { .. }, None) => self.marks().mark_at_least(hash, tick),
            (Recorded::New | Recorded::Known, None) => {}
        }
    }
}

/// Hashes a session's key, which its user may have chosen.
#[inline]
fn hash_of(session: u64) -> u64 {
    mix(session ^ 0x5e55_1043)
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
    fn the_estimate_is_allocated_when_there_is_no_room_and_has_the_sessions_from_before() {
        let (counter, mut numbers) = (SessionCounter::default(), Numbers(3));
        let has_estimate = || counter.sessions().marks.get().is_some();
        let mut sessions = 0;
        while !has_estimate() {
            assert_eq!(counter.count(window(1, 60)), Some(sessions));
            counter.record(Some(numbers.next()), true, 1);
            sessions += 1;
        }
        assert!(sessions > 64, "{sessions} sessions had no room");
        let count = counter.count(window(1, 60)).unwrap();
        assert!(count.abs_diff(sessions) < sessions / 10, "{sessions} were counted as {count}");
        assert!(!counter.is_empty(window(61, 60)) && counter.is_empty(window(62, 60)));
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
    fn the_counter_is_empty_when_more_sessions_have_ended_than_it_counts_exactly() {
        let (counter, window) = (SessionCounter::default(), window(1, 60));
        for session in 1..=1000 {
            counter.record(Some(session), true, 1);
        }
        assert!(!counter.is_empty(window));
        (1..=1000).for_each(|session| counter.remove(session));
        assert!(counter.is_empty(window));
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
    fn a_session_is_not_forgotten_when_one_ends_that_has_the_same_mark() {
        let (counter, window) = (SessionCounter::default(), window(1, 60));
        let marks = Marks::of([(hash_of(2), 1)].into_iter());
        let has_same_mark = |session: &u64| {
            marks.remove(hash_of(*session));
            !marks.any(window)
        };
        let same = (3..).find(has_same_mark).unwrap();
        let others = || (3..=1_000).chain([same]);
        for session in [2].into_iter().chain(others()) {
            counter.record(Some(session), true, 1);
        }
        others().for_each(|session| counter.remove(session));
        assert!(!counter.is_empty(window), "the first one has not ended");
        counter.remove(2);
        assert!(counter.is_empty(window));
    }
}
