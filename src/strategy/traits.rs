//! The `Strategy` trait, and the candidates that it chooses among.

use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

use crate::{id::BackendId, pool::BackendState};

/// Chooses the backend of a new session.
///
/// # Example
///
/// All sessions go to the first backend that is up, for an active-passive pair:
///
/// ```
/// use tower_sticky::strategy::{Candidates, Strategy};
///
/// #[derive(Debug)]
/// struct First;
///
/// impl Strategy for First {
///     fn choose(&self, _: &Candidates<'_>) -> usize {
///         0
///     }
/// }
/// ```
pub trait Strategy: fmt::Debug + Send + Sync + 'static {
    /// Returns the position of the backend for the new session. There is at least one candidate. A
    /// position past the end counts as the last one.
    fn choose(&self, candidates: &Candidates<'_>) -> usize;

    /// Whether the strategy needs latencies; default `false`. If so, [`answered`](Self::answered) is called
    /// for every request, pinned ones included.
    fn wants_latency(&self) -> bool {
        false
    }

    /// Whether the strategy needs the number of [sessions](Candidate::sessions); default `false`. If so, they are
    /// counted once a second.
    fn wants_sessions(&self) -> bool {
        false
    }

    /// Called when the headers of a response have arrived, `latency` after the request was sent.
    fn answered(&self, backend: Candidate<'_>, latency: Duration) {
        let _ = (backend, latency);
    }
}

impl<T: Strategy + ?Sized> Strategy for Arc<T> {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        (**self).choose(candidates)
    }

    fn wants_latency(&self) -> bool {
        (**self).wants_latency()
    }

    fn wants_sessions(&self) -> bool {
        (**self).wants_sessions()
    }

    fn answered(&self, backend: Candidate<'_>, latency: Duration) {
        (**self).answered(backend, latency);
    }
}

/// The backends that may take a new session: active ones with a weight above 0 that are ready, or busy if
/// none is ready. In the order in which they joined.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    states: &'a [Arc<BackendState>],
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(states: &'a [Arc<BackendState>]) -> Self {
        Self { states }
    }

    /// The number of candidates; at least one when a strategy is called.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there is no candidate.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The candidate at `position`.
    pub fn get(&self, position: usize) -> Option<Candidate<'a>> {
        self.states.get(position).map(|state| Candidate { state })
    }

    /// All candidates.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Candidate<'a>> + use<'a> {
        self.states.iter().map(|state| Candidate { state })
    }
}

/// One backend as a strategy sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    state: &'a BackendState,
}

impl<'a> Candidate<'a> {
    pub(crate) fn new(state: &'a BackendState) -> Self {
        Self { state }
    }

    /// The backend's id.
    pub fn id(&self) -> &'a BackendId {
        &self.state.id
    }

    /// The backend's weight, at least 1: its share of new sessions relative to the others, after its
    /// [slow start](crate::Health::slow_start).
    pub fn weight(&self) -> u32 {
        self.state.weight().max(1)
    }

    /// The backend's current share of new sessions, relative to the others: 256 times its weight, and less
    /// during its [slow start](crate::Health::slow_start), which begins at a tenth of that.
    pub fn share(&self) -> u64 {
        u64::from(self.weight()) * u64::from(self.state.slow_start.fraction())
    }

    /// Requests in flight, pinned ones included, each counted until the end of its response's body.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// The sessions that this gateway has seen: those of the last count, with tokens that were issued in the last
    /// minute, and those that [`LeastSessions`](crate::strategy::LeastSessions) has placed since. `None` when they
    /// cannot be told apart, as with plain tokens. Counted for strategies that
    /// [want](Strategy::wants_sessions) it.
    pub fn sessions(&self) -> Option<u64> {
        self.state.session_load.get()
    }

    /// Counts a session that is placed on the backend.
    pub(crate) fn place(&self) {
        self.state.session_load.place();
    }

    /// A hash of the id, which is the same in every process.
    pub(crate) fn tag(&self) -> u64 {
        self.state.tag
    }

    /// The requests in flight per share.
    pub(crate) fn load(&self) -> Load {
        Load { in_flight: self.in_flight() as u64, share: self.share() }
    }

    /// The moving average of the latency in nanoseconds, which decays to 0 without answers.
    pub(crate) fn latency(&self, now: Instant, decay: Duration) -> f64 {
        self.state.latency.nanos(now, decay)
    }

    pub(crate) fn observe(&self, latency: Duration, now: Instant, decay: Duration) {
        self.state.latency.observe(latency, now, decay);
    }
}

/// Requests in flight per share, compared without rounding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    in_flight: u64,
    share: u64,
}

impl Load {
    pub(crate) fn less_than(self, other: Self) -> bool {
        let scaled = |load: Self, by: Self| u128::from(load.in_flight) * u128::from(by.share);
        scaled(self, other) < scaled(other, self)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    pub(crate) use crate::pool::Entered;

    /// Backends with these weights, named `b0`, `b1` and so on.
    pub(crate) fn states(weights: &[u32]) -> Vec<Arc<BackendState>> {
        let state = |(i, &weight): (usize, &u32)| {
            let state = BackendState::new(BackendId::new(format!("b{i}")).unwrap());
            state.set_weight(weight);
            Arc::new(state)
        };
        weights.iter().enumerate().map(state).collect()
    }

    /// How often each backend is chosen in `rounds`.
    pub(crate) fn shares(
        strategy: &dyn Strategy,
        states: &[Arc<BackendState>],
        rounds: usize,
    ) -> Vec<usize> {
        let mut shares = vec![0; states.len()];
        for _ in 0..rounds {
            shares[strategy.choose(&Candidates::new(states))] += 1;
        }
        shares
    }

    /// How many requests each backend has after so many of which none ends.
    pub(crate) fn held(
        strategy: &dyn Strategy,
        states: &[Arc<BackendState>],
        requests: usize,
    ) -> Vec<usize> {
        let enter = |_| Entered::new(states[strategy.choose(&Candidates::new(states))].clone());
        let _held: Vec<_> = (0..requests).map(enter).collect();
        states.iter().map(|state| state.in_flight()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_nothing_is_measured_for_a_strategy() {
        #[derive(Debug)]
        struct First;

        impl Strategy for First {
            fn choose(&self, _: &Candidates<'_>) -> usize {
                0
            }
        }

        assert!(!First.wants_latency() && !First.wants_sessions());
        let shared: Arc<dyn Strategy> = Arc::new(First);
        assert!(!shared.wants_latency() && !shared.wants_sessions());
    }

    #[test]
    fn a_shared_strategy_says_what_it_needs() {
        #[derive(Debug)]
        struct Measuring;

        impl Strategy for Measuring {
            fn choose(&self, _: &Candidates<'_>) -> usize {
                0
            }

            fn wants_latency(&self) -> bool {
                true
            }

            fn wants_sessions(&self) -> bool {
                true
            }
        }

        let shared: Arc<dyn Strategy> = Arc::new(Measuring);
        assert!(shared.wants_latency() && shared.wants_sessions());
    }

    #[test]
    fn an_empty_list_is_empty() {
        assert!(Candidates::new(&[]).is_empty());
        let states = testing::states(&[1]);
        assert!(!Candidates::new(&states).is_empty());
    }
}
