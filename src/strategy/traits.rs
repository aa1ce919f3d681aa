//! What a strategy is, and what it chooses among.

use std::{fmt, sync::Arc, time::Duration};
use tokio::time::Instant;

use crate::{id::BackendId, pool::BackendState};

/// Chooses the backend of a new session.
///
/// # Example
///
/// Everybody to the first backend that is up, as an active-passive pair wants it:
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
    /// The position of the backend that takes the new session. There is at least one candidate; a
    /// position past the end counts as the last one.
    fn choose(&self, candidates: &Candidates<'_>) -> usize;

    /// Whether the strategy wants to know how long backends take to answer; default `false`. When
    /// it does, [`answered`](Self::answered) is called for every request, pinned ones included.
    fn wants_latency(&self) -> bool {
        false
    }

    /// A backend answered: its response's head came `latency` after the request was handed over.
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

    fn answered(&self, backend: Candidate<'_>, latency: Duration) {
        (**self).answered(backend, latency);
    }
}

/// The backends that may take a new session: active, with a weight above 0, and ready and below their
/// limits, or busy when none is. In the order in which they joined.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    states: &'a [Arc<BackendState>],
}

impl<'a> Candidates<'a> {
    pub(crate) fn new(states: &'a [Arc<BackendState>]) -> Self {
        Self { states }
    }

    /// How many there are; at least one when a strategy is asked.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The candidate at `position`.
    pub fn get(&self, position: usize) -> Option<Candidate<'a>> {
        self.states.get(position).map(|state| Candidate { state })
    }

    /// All of them.
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

    /// Its id.
    pub fn id(&self) -> &'a BackendId {
        &self.state.id
    }

    /// Its weight, at least 1: its share of new sessions relative to the others, once it has
    /// [started](crate::Health::slow_start).
    pub fn weight(&self) -> u32 {
        self.state.weight().max(1)
    }

    /// Its share of new sessions now, relative to the others: 256 times its weight, and less, down to
    /// a tenth of that, while it starts [slowly](crate::Health::slow_start).
    pub fn share(&self) -> u64 {
        u64::from(self.weight()) * u64::from(self.state.slow_start.fraction())
    }

    /// Requests that it works on now, pinned ones included, each counted until its body has ended.
    pub fn in_flight(&self) -> usize {
        self.state.in_flight()
    }

    /// A number that stands for the id: the same in every process.
    pub(crate) fn tag(&self) -> u64 {
        self.state.tag
    }

    /// Its load: the requests in flight per share.
    pub(crate) fn load(&self) -> Load {
        Load { in_flight: self.in_flight() as u64, share: self.share() }
    }

    /// The moving average of its latency, in nanoseconds; 0 when it has not answered lately.
    pub(crate) fn latency(&self, now: Instant, decay: Duration) -> f64 {
        self.state.latency.nanos(now, decay)
    }

    pub(crate) fn observe(&self, latency: Duration, now: Instant, decay: Duration) {
        self.state.latency.observe(latency, now, decay);
    }
}

/// Requests per share, compared without rounding.
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

    /// Backends with the weights given, named `b0`, `b1` and so on.
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
}
