//! The distribution of sessions over backends, for rebalancing.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::{Availability, BackendState, Mode, sessions::Window};

/// How many backends may be counted per tick, which sets the interval between counts.
const COUNTED_PER_TICK: usize = 256;

/// The average number of sessions per weight, updated periodically.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// Whether a layer rebalances sessions, or places them by their number.
    is_enabled: std::sync::atomic::AtomicBool,
    /// Sessions per weight, as the bits of an `f64`.
    average: AtomicU64,
    /// The tick of the next count.
    due: AtomicU32,
}

impl Balance {
    /// Starts the periodic counts.
    pub(crate) fn enable(&self) {
        self.is_enabled.store(true, Relaxed);
    }

    /// Sessions per weight, if they are counted.
    #[cfg(feature = "admin")]
    pub(crate) fn average(&self) -> Option<f64> {
        let is_enabled = self.is_enabled.load(Relaxed);
        is_enabled.then(|| f64::from_bits(self.average.load(Relaxed)))
    }

    /// Counts the sessions of all backends, if that is enabled and due.
    pub(super) fn update(&self, states: &[Arc<BackendState>], window: Window, tick: u32) {
        if !self.is_enabled.load(Relaxed) || tick < self.due.load(Relaxed) {
            return;
        }
        let (mut sessions, mut weights) = (0, 0);
        for state in states {
            let count = state.session_counter.count(window);
            let unconfirmed = state.session_counter.unconfirmed(window.now);
            state.session_load.set(count.map(|count| count + unconfirmed));
            let count = count.unwrap_or(0);
            state.last_session_count.store(count, Relaxed);
            if may_take(state) {
                sessions += count;
                weights += u64::from(state.weight());
            }
        }
        let average = sessions as f64 / weights.max(1) as f64;
        self.average.store(average.to_bits(), Relaxed);
        let pause = 1 + states.len() / COUNTED_PER_TICK;
        self.due.store(tick.saturating_add(pause as u32), Relaxed);
    }

    /// The backend that should take a session of `from`, if `from` has too many.
    pub(crate) fn target<'a>(
        &self,
        from: &BackendState,
        others: &'a [Arc<BackendState>],
        tolerance: f64,
    ) -> Option<&'a Arc<BackendState>> {
        let average = f64::from_bits(self.average.load(Relaxed));
        if load(from, 0) <= average * tolerance || load(from, 0) - average < 1.0 {
            return None;
        }
        let others = others.iter().filter(|state| state.tag != from.tag && may_take(state));
        others
            .min_by(|a, b| load(a, 1).total_cmp(&load(b, 1)))
            .filter(|state| load(state, 1) <= average)
    }
}

/// Adjusts the counts for a session that has moved, until the next count.
pub(crate) fn session_moved(from: &BackendState, to: &BackendState) {
    let _ = from.last_session_count.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
    to.last_session_count.fetch_add(1, Relaxed);
}

fn may_take(state: &BackendState) -> bool {
    state.mode() == Mode::Active
        && state.weight() > 0
        && state.availability() == Availability::Ready
}

/// Sessions per weight, with `more` sessions added.
fn load(state: &BackendState, more: u64) -> f64 {
    (state.last_session_count.load(Relaxed) + more) as f64 / f64::from(state.weight().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::states;

    fn backends(sessions: &[u64]) -> Vec<Arc<BackendState>> {
        let states = states(&vec![1; sessions.len()]);
        for (state, count) in states.iter().zip(sessions) {
            state.last_session_count.store(*count, Relaxed);
        }
        states
    }

    fn balance(average: f64) -> Balance {
        Balance { average: AtomicU64::new(average.to_bits()), ..Balance::default() }
    }

    #[test]
    fn a_session_leaves_when_its_backend_has_a_whole_one_too_many() {
        let target = |sessions: &[u64], average| {
            let states = backends(sessions);
            let target = balance(average).target(&states[0], &states, 1.0).cloned();
            target.map(|target| states.iter().position(|state| state.tag == target.tag).unwrap())
        };
        assert_eq!(target(&[5, 1, 1], 4.5), None, "half a session");
        assert_eq!(target(&[5, 1, 2], 4.0), Some(1), "a whole one");
        assert_eq!(target(&[6, 4, 2], 4.5), Some(2), "to the one with the fewest");
        assert_eq!(target(&[6, 4, 4], 4.5), None, "one more would be too many for the others");
        assert_eq!(target(&[1, 0, 0], 0.5), None);
    }

    #[test]
    fn a_backend_that_takes_no_new_sessions_is_no_target() {
        let states = backends(&[6, 1, 2]);
        states[1].set_mode(Mode::Draining);
        let target = || balance(4.5).target(&states[0], &states, 1.0).unwrap().tag;
        assert_eq!(target(), states[2].tag);
        states[1].set_mode(Mode::Active);
        assert_eq!(target(), states[1].tag);
        states[1].set_weight(0);
        assert_eq!(target(), states[2].tag);
    }

    #[test]
    fn sessions_are_compared_by_weight() {
        let states = backends(&[6, 8, 3]);
        states[1].set_weight(4);
        let balance = balance(17.0 / 6.0);
        let target = |from: usize| balance.target(&states[from], &states, 1.0);
        assert_eq!(target(0).map(|state| state.tag), Some(states[1].tag), "2.25 with one more");
        assert!(target(1).is_none(), "2 per weight are not too many");
    }

    #[test]
    fn tokens_that_were_not_sent_back_count_for_the_placement_and_not_for_the_balance() {
        let (balance, states) = (Balance::default(), backends(&[0]));
        states[0].session_counter.record(Some(7), true, 10);
        states[0].session_counter.token_issued(10);
        states[0].session_counter.token_issued(10);
        balance.enable();
        balance.update(&states, Window { now: 10, ticks: 100 }, 10);
        assert_eq!(states[0].session_load.get(), Some(3));
        assert_eq!(states[0].last_session_count.load(Relaxed), 1);
        assert_eq!(balance.average(), Some(1.0));
    }

    #[test]
    fn large_pools_are_counted_less_often() {
        let (balance, states) = (Balance::default(), backends(&[0; COUNTED_PER_TICK]));
        balance.enable();
        let counted = |tick| {
            states[0].last_session_count.store(9, Relaxed);
            balance.update(&states, Window { now: tick, ticks: 100 }, tick);
            states[0].last_session_count.load(Relaxed) == 0
        };
        assert_eq!([10, 11, 12, 13].map(counted), [true, false, true, false]);
    }

    #[test]
    fn sessions_are_counted_when_that_is_due() {
        let (balance, states) = (Balance::default(), backends(&[9, 9]));
        let window = |now| Window { now, ticks: 100 };
        balance.update(&states, window(10), 10);
        assert_eq!(states[0].last_session_count.load(Relaxed), 9, "it is not enabled");
        assert_eq!(balance.average(), None);
        balance.enable();
        let counted = |tick| {
            states[0].last_session_count.store(9, Relaxed);
            balance.update(&states, window(tick), tick);
            states[0].last_session_count.load(Relaxed) == 0
        };
        assert_eq!([10, 10, 11, 11, 12].map(counted), [true, false, true, false, true]);
        assert_eq!(balance.average(), Some(0.0));
    }
}
