//! The recorder of a pool.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::{
    HistogramTotals, Requests,
    by_request::{ByRequest, ByRequestTotals, Ending, RequestKind},
    histogram::{Histogram, totals},
    moves::{Moves, Pair, Totals},
};
use crate::{
    outcome::{Reason, StatusClass, TokenCause, Verdict},
    util::{KnownMethod, shards::Sharded},
};

/// How many ways there are in which a drain can end.
pub(crate) const DRAIN_ENDS: usize = 4;

/// Records what happens in a pool. Clones record in the same place.
#[derive(Debug, Clone)]
pub(crate) struct PoolRecorder(Arc<Recorded>);

#[derive(Debug)]
struct Recorded {
    /// Timestamps count from here.
    started: Instant,
    first_bytes: Sharded<Histogram>,
    /// Requests until the end of their response.
    requests: ByRequest,
    /// Attempts until the head of their response, or their failure.
    attempts: ByRequest,
    waits: Sharded<Histogram>,
    /// Requests that no backend has answered.
    unanswered: Requests,
    tokens: [AtomicU64; TokenCause::ALL.len()],
    moves: Moves,
    drains: [AtomicU64; DRAIN_ENDS],
    /// Whether each backend has histograms of its own.
    per_backend: AtomicBool,
}

/// Nanoseconds since the recorder was created.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Timestamp(u64);

impl Timestamp {
    /// Nanoseconds from `earlier` to this.
    #[inline]
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// When a request has arrived, with its method and scheme: the latter in the lowest bits, above them the
/// nanoseconds since the recorder was created.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Arrival(u64);

impl Arrival {
    #[inline]
    pub(super) fn time(self) -> Timestamp {
        Timestamp(self.0 >> RequestKind::BITS)
    }

    #[inline]
    pub(super) fn kind(self) -> RequestKind {
        RequestKind::from_bits(self.0)
    }
}

impl Default for PoolRecorder {
    fn default() -> Self {
        Self(Arc::new(Recorded {
            started: Instant::now(),
            first_bytes: Sharded::default(),
            requests: ByRequest::default(),
            attempts: ByRequest::default(),
            waits: Sharded::default(),
            unanswered: Requests::default(),
            tokens: Default::default(),
            moves: Moves::default(),
            drains: Default::default(),
            per_backend: AtomicBool::new(false),
        }))
    }
}

impl PoolRecorder {
    /// The time now: a read of the clock.
    #[inline]
    pub(crate) fn now(&self) -> Timestamp {
        let since = Instant::now().saturating_duration_since(self.0.started);
        Timestamp(since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos()))
    }

    /// Whether each backend has histograms of its own, from its next answer on.
    pub(crate) fn record_per_backend(&self, enabled: bool) {
        self.0.per_backend.store(enabled, Relaxed);
    }

    #[inline]
    pub(super) fn records_per_backend(&self) -> bool {
        self.0.per_backend.load(Relaxed)
    }

    /// A request of this method and scheme has begun at `now`.
    #[inline]
    pub(crate) fn begun(&self, now: Timestamp, method: &Method, https: bool) -> Arrival {
        let kind = RequestKind::new(KnownMethod::of(method), https);
        self.0.requests.begin(kind);
        Arrival(now.0 << RequestKind::BITS | kind.bits())
    }

    #[inline]
    pub(super) fn record_first_byte(&self, nanos: u64) {
        self.0.first_bytes.with(|shard, access| shard.observe(nanos, access));
    }

    /// A request has ended at `now`.
    #[inline]
    pub(super) fn record_whole(&self, arrived: Arrival, ending: Ending, now: Timestamp) {
        self.0.requests.observe(arrived.kind(), ending, now.since(arrived.time()));
    }

    /// An attempt that began at `sent`, if that was later than the arrival, has been answered, or has failed.
    #[inline]
    pub(super) fn record_attempt(
        &self,
        arrived: Arrival,
        sent: Option<Timestamp>,
        ending: Ending,
        now: Timestamp,
    ) {
        let sent = sent.unwrap_or(arrived.time());
        self.0.attempts.observe(arrived.kind(), ending, now.since(sent));
    }

    /// An attempt has failed.
    pub(crate) fn attempt_failed(&self, arrived: Arrival, sent: Option<Timestamp>, why: Ending) {
        self.record_attempt(arrived, sent, why, self.now());
    }

    /// A request that arrived at `arrived` has ended without the answer of a backend.
    pub(crate) fn ended(&self, arrived: Arrival, status: Option<StatusCode>) {
        let ending = status.map_or(Ending::CANCELED, Ending::status);
        self.record_whole(arrived, ending, self.now());
    }

    /// A request has waited so long for a backend to become ready.
    pub(crate) fn waited(&self, waited: Duration) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.0.waits.with(|shard, access| shard.observe(nanos, access));
    }

    /// Counts a request that no backend has answered, and which is no failure of one.
    pub(crate) fn unanswered(&self, verdict: Verdict, reason: Option<Reason>, class: StatusClass) {
        self.0.unanswered.count(verdict, reason, class);
    }

    pub(crate) fn token_written(&self, cause: TokenCause) {
        self.0.tokens[cause as usize].fetch_add(1, Relaxed);
    }

    /// Counts a move. `is_member`: whether a tag belongs to a backend of the pool.
    pub(crate) fn moved(
        &self,
        pair: Pair,
        reason: Option<Reason>,
        is_member: impl Fn(u64) -> bool,
    ) {
        self.0.moves.count(pair, reason, is_member);
    }

    /// Counts the end of a drain; `end` is its index among the ways to end.
    pub(crate) fn drained(&self, end: usize) {
        if let Some(drains) = self.0.drains.get(end) {
            drains.fetch_add(1, Relaxed);
        }
    }

    pub(crate) fn first_bytes(&self) -> HistogramTotals {
        totals(&self.0.first_bytes, |shard| shard)
    }

    pub(crate) fn wholes(&self) -> HistogramTotals {
        self.0.requests.all()
    }

    /// Requests by method, scheme and status.
    pub(crate) fn requests(&self) -> ByRequestTotals {
        self.0.requests.totals()
    }

    /// Attempts by method, scheme and status.
    pub(crate) fn attempts(&self) -> ByRequestTotals {
        self.0.attempts.totals()
    }

    pub(crate) fn waits(&self) -> HistogramTotals {
        totals(&self.0.waits, |shard| shard)
    }

    pub(crate) fn unanswered_requests(&self) -> &Requests {
        &self.0.unanswered
    }

    pub(crate) fn tokens_written(&self, cause: TokenCause) -> u64 {
        self.0.tokens[cause as usize].load(Relaxed)
    }

    pub(crate) fn moves(&self) -> Totals {
        self.0.moves.totals()
    }

    pub(crate) fn drains(&self, end: usize) -> u64 {
        self.0.drains.get(end).map_or(0, |drains| drains.load(Relaxed))
    }
}
