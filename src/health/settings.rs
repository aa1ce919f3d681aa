//! `Health`: how a pool finds out who is alive, and its builder.

use std::{fmt, time::Duration};

use super::{NoProbe, SuccessRate};

/// How a pool finds out which of its backends can serve.
///
/// There are three sources, and one state per backend that is made of them: a backend is
/// [`Ready`](crate::State::Ready) when none of them objects. Every change of it is an
/// [`Event`](crate::Event) with its [`Cause`](crate::Cause). Unknown at the start counts as ready.
///
/// **Readiness poll.** A task asks a clone of every backend's service whether it is ready, once per
/// interval, and drops the clone at once, so that a probe never keeps a permit. Ready, pending and
/// failed become [`Ready`](crate::State::Ready), [`Busy`](crate::State::Busy) and
/// [`Down`](crate::State::Down). The task begins with the first request, or with
/// [`StickyLayer::start`](crate::StickyLayer::start), and ends with the last handle of the pool.
/// Services that are always "ready", such as Tonic's `Channel` and most HTTP clients, say nothing
/// in this way:
///
/// **Active probes.** By option the task also asks every backend for a sign of life, through its own
/// service: see [`probe`](Self::probe). After [`fall`](Self::fall) failures in a row the backend is
/// down, after [`rise`](Self::rise) successes it is up again.
///
/// **Passive detection.** A backend whose connections fail is ejected, which means down for a while:
/// first for a tenth of the longest ejection, then for twice as long each time. After that one
/// request at a time may try it, or a probe: an answer brings it back. It begins at a tenth again once
/// it has been in without a failure for as long as the longest ejection. By option failing answers
/// eject as well: [`consecutive_failures`](Self::consecutive_failures) and
/// [`success_rate`](Self::success_rate).
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{Health, HttpProbe, SuccessRate};
///
/// let health = Health::new()
///     .probe(HttpProbe::get("/healthz").expect_status(200))
///     .probe_interval(Duration::from_secs(2))
///     .connect_failures(2)
///     .consecutive_failures(5)
///     .success_rate(SuccessRate::new())
///     .max_ejected(0.5)
///     .ejection(Duration::from_secs(30))
///     .slow_start(Duration::from_secs(30));
/// ```
#[derive(Clone, Copy, PartialEq)]
pub struct Health<P = NoProbe> {
    pub(crate) settings: Settings,
    pub(crate) probe: P,
}

/// All of it but the probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) readiness_interval: Duration,
    pub(crate) connect_failures: u32,
    /// 0 for never.
    pub(crate) consecutive_failures: u32,
    pub(crate) success_rate: Option<SuccessRate>,
    pub(crate) max_ejected: f64,
    pub(crate) ejection: Duration,
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    pub(crate) seed: Option<u64>,
    /// Zero for none.
    pub(crate) slow_start: Duration,
}

impl Health {
    /// Polls every second, ejects after one connection failure for at most 10 s, and does not probe.
    pub const fn new() -> Self {
        Self { settings: Settings::new(), probe: NoProbe }
    }
}

impl Settings {
    pub(crate) const fn new() -> Self {
        Self {
            readiness_interval: Duration::from_secs(1),
            connect_failures: 1,
            consecutive_failures: 0,
            success_rate: None,
            max_ejected: 1.0,
            ejection: Duration::from_secs(10),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            rise: 2,
            fall: 3,
            seed: None,
            slow_start: Duration::ZERO,
        }
    }

    /// Whether a failing answer is held against a backend.
    #[inline]
    pub(crate) fn judges_answers(&self) -> bool {
        self.consecutive_failures > 0 || self.success_rate.is_some()
    }
}

impl<P> Health<P> {
    /// How often every backend's readiness is polled, at least a millisecond; default 1 s.
    #[must_use]
    pub fn readiness_interval(mut self, interval: Duration) -> Self {
        self.settings.readiness_interval = sensible(interval);
        self
    }

    /// How to ask a backend for a sign of life: [`HttpProbe`](crate::HttpProbe),
    /// [`GrpcProbe`](crate::GrpcProbe), a closure, or a [`Probe`](crate::Probe) of your own.
    ///
    /// Probes go through the backend's own service. They are not requests: they count nowhere, take
    /// no slot of a [limit](crate::Backends::set_limit) and touch no session. A backend has at most
    /// one at a time, and one that hangs delays no other. A service that has no room for a probe
    /// within [`probe_timeout`](Self::probe_timeout) is saturated, not dead: that is no result.
    ///
    /// Draining backends are probed, disabled ones and the local node are not.
    #[must_use]
    pub fn probe<P2>(self, probe: P2) -> Health<P2> {
        Health { settings: self.settings, probe }
    }

    /// How often a backend is probed, at least a millisecond; default 1 s. It varies by a tenth, so
    /// that several gateways do not probe in step.
    ///
    /// While it is not clear how the backend is, it is probed four times as often: before the first
    /// verdict, and when the last result, or passive detection, disagrees with the verdict.
    #[must_use]
    pub fn probe_interval(mut self, interval: Duration) -> Self {
        self.settings.probe_interval = sensible(interval);
        self
    }

    /// How long a probe may take before it has failed, at least a millisecond; default 500 ms. Before
    /// that it waits as long for its service to be ready.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.settings.probe_timeout = sensible(timeout);
        self
    }

    /// How many probes in a row must succeed until a backend is up again, at least 1; default 2.
    ///
    /// That also ends an ejection: whatever it was for, the backend answers again.
    #[must_use]
    pub fn rise(mut self, successes: u32) -> Self {
        self.settings.rise = successes.max(1);
        self
    }

    /// How many probes in a row must fail until a backend is down, at least 1; default 3.
    #[must_use]
    pub fn fall(mut self, failures: u32) -> Self {
        self.settings.fall = failures.max(1);
        self
    }

    /// Makes the variation of the intervals the same each time, for tests; default: by chance.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// How many connection failures in a row eject a backend; 0 for never; default 1.
    #[must_use]
    pub const fn connect_failures(mut self, failures: u32) -> Self {
        self.settings.connect_failures = failures;
        self
    }

    /// How many failing answers in a row eject a backend; 0 for never, which is the default.
    ///
    /// Failing are answers with a 5xx status, answers that broke off before their head was complete
    /// or did not come in time, and, to gRPC requests, the status `UNAVAILABLE` (14) without a
    /// message. Any other answer begins the count anew. A 5xx that is the application's fault and not
    /// the backend's counts too: choose a number that a healthy backend does not reach.
    #[must_use]
    pub const fn consecutive_failures(mut self, failures: u32) -> Self {
        self.settings.consecutive_failures = failures;
        self
    }

    /// Ejects backends whose answers fail more often than the others'; default: does not.
    #[must_use]
    pub const fn success_rate(mut self, success_rate: SuccessRate) -> Self {
        self.settings.success_rate = Some(success_rate);
        self
    }

    /// The largest share of the pool's backends that may be ejected at a time, from 0 to 1 (what is
    /// outside counts as the nearer end); default 1.
    ///
    /// Unless it is 0 one backend may always be ejected. A backend that would be one too many stays in,
    /// and its failures go on counting. Backends that readiness or probes take out do not count.
    #[must_use]
    pub const fn max_ejected(mut self, share: f64) -> Self {
        self.settings.max_ejected = share;
        self
    }

    /// The longest ejection; default 10 s. The first one takes a tenth of it.
    #[must_use]
    pub fn ejection(mut self, longest: Duration) -> Self {
        self.settings.ejection = longest.min(YEAR);
        self
    }

    /// For how long a backend that has joined the running pool, or has come back from being down,
    /// disabled or [drained](crate::Mode::Drained), takes fewer new sessions than its weight says: a
    /// tenth at first, and evenly more until the time is over. Default zero: it takes its whole share
    /// at once.
    ///
    /// The [strategies](crate::strategy) do so, by [`Candidate::share`](crate::strategy::Candidate::share).
    /// Sessions that have a backend are not affected, nor are those that are placed by the hash of a
    /// key, in the hash modes as at failover: all gateways must agree on them. A strategy that compares
    /// loads does so per share: while nobody has anything to do, one that begins slowly gets nothing.
    #[must_use]
    pub fn slow_start(mut self, duration: Duration) -> Self {
        self.settings.slow_start = duration.min(YEAR);
        self
    }
}

/// No time that is set is longer.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// As an interval or a time limit.
pub(super) fn sensible(time: Duration) -> Duration {
    time.clamp(Duration::from_millis(1), YEAR)
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl<P> fmt::Debug for Health<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health").field("settings", &self.settings).finish_non_exhaustive()
    }
}
