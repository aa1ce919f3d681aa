//! The recorder of one backend.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use http::StatusCode;

use super::{
    Arrival, Ending, HistogramTotals, PoolRecorder, Requests, Timestamp, histogram::Durations,
};
use crate::{
    outcome::{Reason, StatusClass, Verdict},
    util::shards::Access,
};

/// What has happened to a connection, as far as requests notice it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    /// It was refused or timed out.
    Refused,
    /// It ended before an answer.
    Broken,
}

impl Connection {
    pub(crate) const ALL: [Self; 2] = [Self::Refused, Self::Broken];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Broken => "broken",
        }
    }
}

/// Records what happens at one backend. It is dropped with the backend's state.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct BackendRecorder {
    requests: Requests,
    pool: OnceLock<PoolRecorder>,
    /// Allocated with the first answer when backends have histograms of their own.
    durations: OnceLock<Box<Durations>>,
    connections: [AtomicU64; Connection::ALL.len()],
    /// Failed and successful probes.
    probes: [AtomicU64; 2],
    /// Failed and successful redials.
    redials: [AtomicU64; 2],
    ejections: AtomicU64,
}

impl BackendRecorder {
    /// The backend has joined a pool.
    pub(crate) fn join(&self, pool: &PoolRecorder) {
        if self.pool.get().is_none() {
            let _ = self.pool.set(pool.clone());
        }
    }

    /// Counts a request that the backend has answered, or whose failure is about this backend.
    #[inline]
    pub(crate) fn request(&self, verdict: Verdict, reason: Option<Reason>, class: StatusClass) {
        self.requests.count(verdict, reason, class);
    }

    /// The head of the response to a request that arrived at `arrived`, and was sent at `sent` if that was later,
    /// is here, and all of the response if `is_whole`. Returns what measures the rest of it.
    #[inline]
    pub(crate) fn head_arrived(
        &self,
        arrived: Arrival,
        sent: Option<Timestamp>,
        status: StatusCode,
        is_whole: impl FnOnce() -> bool,
    ) -> ResponseTimer {
        let Some(pool) = self.pool.get() else { return ResponseTimer::default() };
        let (is_whole, ending) = (is_whole(), Ending::status(status));
        let now = pool.now();
        let nanos = now.since(arrived.time());
        if pool.records_per_backend() {
            self.durations().first_byte.observe(nanos, Access::Shared);
            if is_whole {
                self.durations().whole.observe(nanos, Access::Shared);
            }
        }
        pool.record_first_byte(nanos);
        pool.record_attempt(arrived, sent, ending, now);
        if is_whole {
            pool.record_whole(arrived, ending, now);
            return ResponseTimer::default();
        }
        ResponseTimer { arrived, head: now, ending, progress: Progress::Head }
    }

    fn durations(&self) -> &Durations {
        self.durations.get_or_init(Box::default)
    }

    pub(crate) fn connection(&self, connection: Connection) {
        self.connections[connection as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn probed(&self, succeeded: bool) {
        self.probes[usize::from(succeeded)].fetch_add(1, Relaxed);
    }

    pub(crate) fn redialed(&self, succeeded: bool) {
        self.redials[usize::from(succeeded)].fetch_add(1, Relaxed);
    }

    pub(crate) fn ejected(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }

    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    pub(crate) fn connections(&self, connection: Connection) -> u64 {
        self.connections[connection as usize].load(Relaxed)
    }

    pub(crate) fn probes(&self, succeeded: bool) -> u64 {
        self.probes[usize::from(succeeded)].load(Relaxed)
    }

    pub(crate) fn redials(&self, succeeded: bool) -> u64 {
        self.redials[usize::from(succeeded)].load(Relaxed)
    }

    pub(crate) fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// Its own histograms, if it has some: until the first byte, and until the end.
    pub(crate) fn histograms(&self) -> Option<(HistogramTotals, HistogramTotals)> {
        let durations = self.durations.get()?;
        let of = |histogram| HistogramTotals::of([histogram].into_iter());
        Some((of(&durations.first_byte), of(&durations.whole)))
    }
}

/// Measures a response until the end of its body.
#[derive(Debug, Default)]
pub(crate) struct ResponseTimer {
    arrived: Arrival,
    head: Timestamp,
    ending: Ending,
    progress: Progress,
}

/// How far a response has come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing is measured.
    #[default]
    Off,
    /// The head has arrived.
    Head,
    /// One frame of the body has arrived, together with the head.
    OneFrame,
    /// There was more, or its reader had to wait.
    More,
}

impl ResponseTimer {
    /// A frame of the body has arrived.
    #[inline]
    pub(crate) fn frame(&mut self) {
        self.progress = match self.progress {
            Progress::Off => Progress::Off,
            Progress::Head => Progress::OneFrame,
            Progress::OneFrame | Progress::More => Progress::More,
        };
    }

    /// The reader of the body has to wait.
    #[inline]
    pub(crate) fn waits(&mut self) {
        if self.progress != Progress::Off {
            self.progress = Progress::More;
        }
    }

    /// The body has ended. One that was a single frame, for which nobody had to wait, ended with the head:
    /// that saves a read of the clock.
    #[inline]
    pub(crate) fn finish(&self, backend: &BackendRecorder) {
        let Some(pool) = backend.pool.get().filter(|_| self.progress != Progress::Off) else {
            return;
        };
        let end = if self.progress == Progress::OneFrame { self.head } else { pool.now() };
        pool.record_whole(self.arrived, self.ending, end);
        if pool.records_per_backend() {
            let nanos = end.since(self.arrived.time());
            backend.durations().whole.observe(nanos, Access::Shared);
        }
    }
}
