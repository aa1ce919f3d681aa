//! `Health`: the builder of the health checks, and their settings.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use tokio::sync::Semaphore;

use super::{NoProbe, SuccessRate};
use crate::{pool::Backoff, util::clock::YEAR};

/// The health checks of a pool, which determine which backends can serve.
///
/// Each backend has one state, derived from two kinds of sources. *Authority*, which is the verdict of
/// active probes beside the operator's [`Mode`](crate::Mode), can make a backend
/// [`Down`](crate::State::Down). *Evidence*, which is failures of requests and connections, makes it
/// [`Suspect`](crate::State::Suspect): new sessions go to other backends, and its own sessions follow
/// [`on_unavailable`](crate::StickyLayer::on_unavailable), but suspects are tried before a request is
/// refused. Otherwise the backend is [`Ready`](crate::State::Ready), which is also its initial state.
/// Every change is published as an [`Event`](crate::Event) with its [`Cause`](crate::Cause).
///
/// **Readiness poll.** Once per interval, a background task calls `poll_ready` on a clone of each
/// backend's service, and drops the clone immediately, as it may hold a permit. Ready, pending and failed
/// become [`Ready`](crate::State::Ready), [`Busy`](crate::State::Busy) and
/// [`Suspect`](crate::State::Suspect); failed services are polled more often. The task starts with the
/// first request, or with [`StickyLayer::start`](crate::StickyLayer::start), and ends with the last
/// handle of the pool. Services that are always ready, such as Tonic's `Channel` and most HTTP clients,
/// need the other health checks.
///
/// **Active probes.** Optional, see [`probe`](Self::probe): the task probes each backend through its own
/// service. After [`fall`](Self::fall) failures in a row the backend is down, after
/// [`rise`](Self::rise) successes in a row it is up again.
///
/// **Connections.** A backend whose connections are refused or time out is suspect until one succeeds. It
/// is redialed in the background: see [`redial`](Self::redial). A backend whose connections end before any
/// byte of an answer, on a fresh connection or twice in a row, is suspect until it answers a probe or a
/// trial request, as proxies and load balancers accept connections for servers that are gone.
/// [`connect_failures`](Self::connect_failures) sets the threshold; 0 disables both.
///
/// **Answers.** Optional: failing answers eject a backend, see
/// [`consecutive_failures`](Self::consecutive_failures) and [`success_rate`](Self::success_rate). It is
/// suspect for a tenth of the longest [`ejection`](Self::ejection) at first, and for twice as long each
/// time. After that it gets one trial request at a time, and a good answer to one, or to a probe, ends
/// the ejection. The back-off is reset when the backend has not failed for as long as the longest
/// ejection.
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

/// All settings except the probe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    pub(crate) readiness_interval: Duration,
    pub(crate) connect_failures: u32,
    /// 0 for never.
    pub(crate) consecutive_failures: u32,
    pub(crate) success_rate: Option<SuccessRate>,
    pub(crate) max_ejected: f64,
    pub(crate) ejection: Duration,
    /// The first and the longest pause between rechecks of a suspect.
    pub(crate) redial: (Duration, Duration),
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    /// How many probes may run at once.
    pub(crate) probes_in_flight: usize,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    pub(crate) seed: Option<u64>,
    /// Zero for none.
    pub(crate) slow_start: Duration,
}

impl Health {
    /// Polls readiness every second, suspects a backend after one connection failure, redials after 100 ms
    /// to 1 s, and does not probe.
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
            max_ejected: 0.5,
            ejection: Duration::from_secs(10),
            redial: (Duration::from_millis(100), Duration::from_secs(1)),
            probe_interval: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(500),
            probes_in_flight: 256,
            rise: 2,
            fall: 3,
            seed: None,
            slow_start: Duration::ZERO,
        }
    }

    /// Whether failing answers are counted.
    #[inline]
    pub(crate) fn counts_answers(&self) -> bool {
        self.consecutive_failures > 0 || self.success_rate.is_some()
    }

    /// The pauses between rechecks of the backend with this tag.
    pub(crate) fn backoff(&self, tag: u64) -> Backoff {
        let (first, longest) = self.redial;
        Backoff { first, longest, seed: self.seed.unwrap_or_else(process_seed) ^ tag }
    }
}

impl<P> Health<P> {
    /// The interval of the readiness poll, at least a millisecond; default 1 s.
    #[must_use]
    pub fn readiness_interval(mut self, interval: Duration) -> Self {
        self.settings.readiness_interval = clamp_interval(interval);
        self
    }

    /// Sets the active probe: [`HttpProbe`](crate::HttpProbe), [`GrpcProbe`](crate::GrpcProbe), a closure,
    /// or an implementation of [`Probe`](crate::Probe).
    ///
    /// Probes are sent through the backend's own service. They are not counted as requests, take no permit
    /// of a [limit](crate::Backends::set_limit), and affect no session. A backend has at most one probe at
    /// a time, and a slow probe delays no other unless the pool has as many in flight as
    /// [`probes_in_flight`](Self::probes_in_flight) allows. If the service does not become ready within
    /// [`probe_timeout`](Self::probe_timeout) it is saturated, which is not a failure.
    ///
    /// Draining backends are probed; disabled ones and the local node are not.
    #[must_use]
    pub fn probe<P2>(self, probe: P2) -> Health<P2> {
        Health { settings: self.settings, probe }
    }

    /// The interval of the probes of a backend, at least a millisecond; default 1 s. A jitter of a tenth
    /// keeps several gateways from probing at the same time.
    ///
    /// A backend is probed four times as often before the first verdict, and while the last result or
    /// passive detection disagrees with the verdict.
    #[must_use]
    pub fn probe_interval(mut self, interval: Duration) -> Self {
        self.settings.probe_interval = clamp_interval(interval);
        self
    }

    /// The timeout of a probe, at least a millisecond; default 500 ms. The wait for the service to become
    /// ready before that has the same timeout.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.settings.probe_timeout = clamp_interval(timeout);
        self
    }

    /// How many probes of the pool may be in flight at a time, at least 1; default 256. The others wait in
    /// the order in which they were due, and [`probe_timeout`](Self::probe_timeout) begins after that.
    ///
    /// Backends that do not answer keep their probes in flight for the whole timeout. In a large pool the
    /// bound should be above the number of backends times the timeout divided by the interval, or probes are
    /// sent less often than every interval.
    #[must_use]
    pub fn probes_in_flight(mut self, probes: usize) -> Self {
        self.settings.probes_in_flight = probes.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// How many probes in a row must succeed until a backend is up again, at least 1; default 2.
    ///
    /// That also ends an ejection. A single success ends the evidence of failed connections.
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

    /// Sets the seed of the jitter of the intervals, for tests; default random.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// The pauses between rechecks of a suspect backend: they double from `first` to `longest`. Default
    /// 100 ms and 1 s; at least 1 ms, and `longest` is at least `first`. A random jitter shortens each pause
    /// by up to a fifth.
    ///
    /// A backend that refused connections is redialed, if its service supports that (see
    /// [`Redial`](crate::Redial)); the connection is kept for the next request. Otherwise a recheck is one
    /// trial request. A pool makes at most 100 redials a second, first those of backends with sessions,
    /// and at most 1000 more for backends that requests wait for
    /// ([`home_wait`](crate::StickyLayer::home_wait)).
    #[must_use]
    pub fn redial(mut self, first: Duration, longest: Duration) -> Self {
        let first = clamp_interval(first);
        self.settings.redial = (first, clamp_interval(longest).max(first));
        self
    }

    /// How many connection failures in a row make a backend suspect; 0 for never; default 1.
    ///
    /// Connections that are refused or time out are counted. Connections that end before any byte of an
    /// answer have their own threshold, two in a row or a fresh one, and are ignored if this is 0.
    #[must_use]
    pub const fn connect_failures(mut self, failures: u32) -> Self {
        self.settings.connect_failures = failures;
        self
    }

    /// How many failing answers in a row eject a backend; 0 for never, which is the default.
    ///
    /// Failing answers are those with a 5xx status, answers that are not HTTP, that break off before the
    /// end of their headers or that time out, and for gRPC requests the status `UNAVAILABLE` (14) without
    /// a message. Any other answer resets the count. A 5xx that the application causes counts as well, so
    /// choose a number that a healthy backend does not reach.
    #[must_use]
    pub const fn consecutive_failures(mut self, failures: u32) -> Self {
        self.settings.consecutive_failures = failures;
        self
    }

    /// Ejects backends whose answers fail more often than those of the others; default off.
    #[must_use]
    pub const fn success_rate(mut self, success_rate: SuccessRate) -> Self {
        self.settings.success_rate = Some(success_rate);
        self
    }

    /// The largest fraction of the pool's backends that may be ejected at a time, from 0 to 1; values
    /// outside are clamped; default 0.5. Without it, requests for a page that fails could eject all
    /// backends.
    ///
    /// Unless it is 0, one backend may always be ejected. A backend that would exceed it is not ejected, and
    /// its failures continue to count. Backends that are suspect or down for other causes do not count.
    #[must_use]
    pub const fn max_ejected(mut self, share: f64) -> Self {
        self.settings.max_ejected = share;
        self
    }

    /// The longest ejection for failing answers; default 10 s. The first one takes a tenth of it.
    #[must_use]
    pub fn ejection(mut self, longest: Duration) -> Self {
        self.settings.ejection = longest.min(YEAR);
        self
    }

    /// The duration of the slow start of a backend that has joined the running pool, or is no longer
    /// suspect, down, disabled or [drained](crate::Mode::Drained). Its share of new sessions grows
    /// linearly from a tenth of its weight to the full weight. Default zero, for no slow start.
    ///
    /// The [strategies](crate::strategy) apply it by
    /// [`Candidate::share`](crate::strategy::Candidate::share). It does not affect existing sessions, nor
    /// sessions whose backend is chosen by a hash, in the hash modes and at failover, as all gateways must
    /// choose the same. Strategies that compare loads do so per share.
    #[must_use]
    pub fn slow_start(mut self, duration: Duration) -> Self {
        self.settings.slow_start = duration.min(YEAR);
        self
    }
}

/// A random seed, fixed for the process.
fn process_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one("redial"))
}

/// Clamps an interval or a timeout to 1 ms to a year.
pub(super) fn clamp_interval(time: Duration) -> Duration {
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
