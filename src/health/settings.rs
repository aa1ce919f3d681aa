//! `Health`: how a pool finds out who is alive, and its builder.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::OnceLock,
    time::Duration,
};

use super::{NoProbe, SuccessRate};
use crate::{pool::Backoff, util::clock::YEAR};

/// How a pool finds out which of its backends can serve.
///
/// There are two kinds of knowledge, and one state per backend that is made of them. *Authority*, which
/// is the verdict of active probes beside the operator's [`Mode`](crate::Mode), can make a backend
/// [`Down`](crate::State::Down). *Evidence*, which is what requests and connections have met, makes it
/// [`Suspect`](crate::State::Suspect): new sessions go to others, and its own follow
/// [`on_unavailable`](crate::StickyLayer::on_unavailable); but when only suspects are left they are tried
/// before a request is refused. Without either the backend is [`Ready`](crate::State::Ready). Every
/// change is an [`Event`](crate::Event) with its [`Cause`](crate::Cause). Unknown at the start counts as
/// ready.
///
/// **Readiness poll.** A task asks a clone of every backend's service whether it is ready, once per
/// interval, and drops the clone at once, so that a probe never keeps a permit. Ready, pending and
/// failed become [`Ready`](crate::State::Ready), [`Busy`](crate::State::Busy) and
/// [`Suspect`](crate::State::Suspect); one that failed is asked more often. The task begins with the first request, or with
/// [`StickyLayer::start`](crate::StickyLayer::start), and ends with the last handle of the pool.
/// Services that are always "ready", such as Tonic's `Channel` and most HTTP clients, say nothing
/// in this way:
///
/// **Active probes.** By option the task also asks every backend for a sign of life, through its own
/// service: see [`probe`](Self::probe). After [`fall`](Self::fall) failures in a row the backend is
/// down, after [`rise`](Self::rise) successes it is up again.
///
/// **Connections.** A backend that refuses connections, or to which they time out, is suspect until one
/// succeeds. It is redialed in the background, soon and often: see [`redial`](Self::redial). One whose
/// connections end before any byte of an answer, on a fresh connection or twice in a row, is suspect until
/// it answers: a probe, or one request at a time as a trial. That is because proxies and load balancers
/// accept connections for servers that are gone. How many refusals it takes says
/// [`connect_failures`](Self::connect_failures), where 0 switches off both.
///
/// **Answers.** By option failing answers eject a backend:
/// [`consecutive_failures`](Self::consecutive_failures) and [`success_rate`](Self::success_rate). It is
/// suspect then for a while, first for a tenth of the longest [`ejection`](Self::ejection), then for twice
/// as long each time. After that one request at a time may try it, or a probe: a good answer brings it
/// back. It begins at a tenth again once it has been in without a failure for as long as the longest
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
    /// The first pause between two looks at a suspect, and the longest.
    pub(crate) redial: (Duration, Duration),
    pub(crate) probe_interval: Duration,
    pub(crate) probe_timeout: Duration,
    pub(crate) rise: u32,
    pub(crate) fall: u32,
    pub(crate) seed: Option<u64>,
    /// Zero for none.
    pub(crate) slow_start: Duration,
}

impl Health {
    /// Polls every second, suspects after one connection failure, redials after 100 ms to 1 s, and does
    /// not probe.
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
            rise: 2,
            fall: 3,
            seed: None,
            slow_start: Duration::ZERO,
        }
    }

    /// Whether a failing answer is held against a backend.
    #[inline]
    pub(crate) fn counts_answers(&self) -> bool {
        self.consecutive_failures > 0 || self.success_rate.is_some()
    }

    /// The pauses between the looks at the backend with this tag.
    pub(crate) fn backoff(&self, tag: u64) -> Backoff {
        let (first, longest) = self.redial;
        Backoff { first, longest, seed: self.seed.unwrap_or_else(process_seed) ^ tag }
    }
}

impl<P> Health<P> {
    /// How often every backend's readiness is polled, at least a millisecond; default 1 s.
    #[must_use]
    pub fn readiness_interval(mut self, interval: Duration) -> Self {
        self.settings.readiness_interval = clamp_interval(interval);
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
        self.settings.probe_interval = clamp_interval(interval);
        self
    }

    /// How long a probe may take before it has failed, at least a millisecond; default 500 ms. Before
    /// that it waits as long for its service to be ready.
    #[must_use]
    pub fn probe_timeout(mut self, timeout: Duration) -> Self {
        self.settings.probe_timeout = clamp_interval(timeout);
        self
    }

    /// How many probes in a row must succeed until a backend is up again, at least 1; default 2.
    ///
    /// That also ends an ejection: whatever it was for, the backend answers again. A single success ends the
    /// evidence of connections.
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

    /// How long to wait before a suspect backend is looked at for the first time, and at most: the pauses
    /// double from `first` to `longest`. Default 100 ms and 1 s; at least 1 ms, and `longest` is at least
    /// `first`. Each pause is shorter by a chance part of up to a fifth.
    ///
    /// A backend that refused connections is redialed, if its service can be (see
    /// [`Redial`](crate::Redial)); the connection is kept for the next request. Another one gets one
    /// request as a trial when its time has come. A pool makes at most 100 redials a second, first those of
    /// backends that have sessions, and at most 1000 beside these for backends whose sessions wait
    /// ([`home_wait`](crate::StickyLayer::home_wait)).
    #[must_use]
    pub fn redial(mut self, first: Duration, longest: Duration) -> Self {
        let first = clamp_interval(first);
        self.settings.redial = (first, clamp_interval(longest).max(first));
        self
    }

    /// How many connection failures in a row make a backend suspect; 0 for never; default 1.
    ///
    /// A connection that was refused or timed out is one. Connections that ended before any byte of an answer
    /// are not counted by this number: two in a row, or a fresh one, make a backend suspect unless it is 0.
    #[must_use]
    pub const fn connect_failures(mut self, failures: u32) -> Self {
        self.settings.connect_failures = failures;
        self
    }

    /// How many failing answers in a row eject a backend; 0 for never, which is the default.
    ///
    /// Failing are answers with a 5xx status, answers that were not HTTP, broke off before their head was
    /// complete or did not come in time, and, to gRPC requests, the status `UNAVAILABLE` (14) without a
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

    /// The largest share of the pool's backends that may be ejected for their answers at a time, from 0 to
    /// 1 (what is outside counts as the nearer end); default 0.5. So a client that asks for a page that
    /// fails cannot put a whole pool under suspicion.
    ///
    /// Unless it is 0 one backend may always be ejected. A backend that would be one too many stays in,
    /// and its failures go on counting. Backends that are suspect or down for other causes do not count.
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

    /// For how long a backend that has joined the running pool, or has come back from being suspect, down,
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

/// A number that is another one in each process.
fn process_seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one("redial"))
}

/// As an interval or a time limit.
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
