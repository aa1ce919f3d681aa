//! What the pages show of a pool.

use std::time::{Duration, SystemTime};

use super::{application::About, page::words};
use crate::{
    outcome::Stats,
    pool::{BackendStatus, Cause, HISTORY_SECS, Interval, Mode, MoveRecord, State},
};

/// How many backends in trouble are told apart in the sentences of the overview.
const TOLD_APART: usize = 3;

/// A pool at one time.
pub(super) struct PoolView {
    pub(super) name: String,
    pub(super) stats: Stats,
    pub(super) backends: Vec<BackendView>,
    pub(super) moves: Vec<MoveRecord>,
    /// The time to the first byte of all answers so far: the median and the 99th percentile, in seconds.
    pub(super) latency: Option<(f64, f64)>,
    /// Sessions per weight on average, where sessions are counted for rebalancing.
    pub(super) balance: Option<f64>,
}

/// A backend at one time.
pub(super) struct BackendView {
    pub(super) status: BackendStatus,
    pub(super) about: About,
    pub(super) history: Vec<Interval>,
    /// As of the pool, if this backend has a histogram of its own.
    pub(super) latency: Option<(f64, f64)>,
    /// Whether it may be given a new session now: backups only while no primary backend is ready.
    pub(super) takes_new: bool,
    /// The fraction of new sessions that it ought to have.
    pub(super) ought: f64,
    /// The fraction of the new sessions of the last ten minutes that it was given.
    pub(super) share: Option<f64>,
}

/// How much a backend needs somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attention {
    Bad,
    Warn,
    None,
}

impl BackendView {
    pub(super) fn id(&self) -> &str {
        self.status.id.as_str()
    }

    pub(super) fn attention(&self) -> Attention {
        match (self.status.mode, self.status.state) {
            (Mode::Active | Mode::Draining, State::Down) => Attention::Bad,
            (Mode::Active | Mode::Draining, State::Suspect) => Attention::Warn,
            _ => Attention::None,
        }
    }

    /// Whether it is given new sessions, or tried for them when no other backend is left.
    fn is_tried(&self) -> bool {
        let is_suspect = self.status.mode == Mode::Active && self.status.state == State::Suspect;
        self.takes_new || (is_suspect && self.status.weight > 0)
    }

    /// Sessions that are known: an estimate once all were seen, else those that were.
    pub(super) fn sessions(&self) -> u64 {
        self.status.sessions.unwrap_or(self.status.sessions_seen)
    }

    /// Why it is in its state, in words.
    pub(super) fn why(&self) -> String {
        let status = &self.status;
        if status.state == State::Busy && status.limit > 0 && status.in_flight >= status.limit {
            return format!("at its limit of {} in flight", words::count(status.limit as u64));
        }
        let cause = match status.state_cause {
            None => return "unchanged since it joined".to_owned(),
            Some(cause) => cause_in_words(cause, status.state),
        };
        match &status.probe_failure {
            Some(failure) if status.state_cause == Some(Cause::Probe) => {
                format!("{cause}: {failure}")
            }
            _ => cause.to_owned(),
        }
    }

    /// Requests and errors per second in the last interval that is over.
    pub(super) fn rates(&self) -> (f64, f64) {
        self.history.last().map_or((0.0, 0.0), |interval| {
            let per_second = |number: u32| f64::from(number) / f64::from(HISTORY_SECS);
            (per_second(interval.requests), per_second(interval.errors))
        })
    }

    /// When a drain ends as it has gone so far: `None` while that is not known.
    pub(super) fn drain_left(&self) -> Option<Duration> {
        let drain = self.status.drain.as_ref()?;
        let by_rate = drain.sessions_before.zip(self.status.sessions).and_then(|(before, now)| {
            let gone = before.saturating_sub(now);
            let (gone, now) = (u32::try_from(gone).ok()?, u32::try_from(now).ok()?);
            (gone > 0).then(|| drain.elapsed.mul_f64(f64::from(now) / f64::from(gone)))
        });
        match (by_rate, drain.remaining) {
            (Some(rate), Some(deadline)) => Some(rate.min(deadline)),
            (rate, deadline) => rate.or(deadline),
        }
    }

    /// The fraction of the sessions that have left since the drain began.
    pub(super) fn drain_progress(&self) -> Option<f64> {
        let before = self.status.drain.as_ref()?.sessions_before?;
        let now = self.status.sessions?;
        if before == 0 {
            return None;
        }
        Some(before.saturating_sub(now) as f64 / before as f64)
    }
}

fn cause_in_words(cause: Cause, state: State) -> &'static str {
    let is_well = matches!(state, State::Ready | State::Busy);
    match cause {
        Cause::Readiness if is_well => "its service is ready",
        Cause::Readiness => "its service is not ready",
        Cause::ConnectFailed => "a connection was refused or timed out",
        Cause::Broken => "connections ended before an answer",
        Cause::Connected => "a connection succeeded again",
        Cause::Failures => "too many failing answers in a row",
        Cause::SuccessRate => "it failed more often than the others",
        Cause::Probe if is_well => "its probes succeed",
        Cause::Probe => "its probes fail",
        Cause::EjectionOver => "on trial after its ejection",
        Cause::Answered => "it has answered again",
        Cause::Replaced => "it was given another service",
    }
}

/// Fills in the shares of new sessions.
pub(super) fn fill_shares(backends: &mut [BackendView]) {
    let assigned = |backend: &BackendView| -> u64 {
        backend.history.iter().map(|interval| u64::from(interval.assigned)).sum()
    };
    let all: u64 = backends.iter().map(assigned).sum();
    let weight = |backend: &BackendView| match backend.takes_new {
        true => u64::from(backend.status.weight),
        false => 0,
    };
    let weights: u64 = backends.iter().map(weight).sum();
    for backend in backends {
        backend.share = (all > 0).then(|| assigned(backend) as f64 / all as f64);
        backend.ought = weight(backend) as f64 / weights.max(1) as f64;
    }
}

impl PoolView {
    /// What needs somebody, in sentences; empty when all is well.
    pub(super) fn troubles(&self, now: SystemTime) -> Vec<String> {
        let mut troubles = Vec::new();
        let ids = |wanted: &dyn Fn(&BackendView) -> bool| -> Vec<&str> {
            self.backends.iter().filter(|backend| wanted(backend)).map(BackendView::id).collect()
        };
        let down = ids(&|backend| backend.attention() == Attention::Bad);
        let suspect = ids(&|backend| backend.attention() == Attention::Warn);
        for (found, state, consequence) in [
            (down, "down", ""),
            (suspect, "suspect", " Requests go there only while no better backend is left."),
        ] {
            match found.len() {
                0 => {}
                1..=TOLD_APART => {
                    troubles.extend(found.iter().filter_map(|id| self.backend(id)).map(
                        |backend| {
                            let since = words::since(backend.status.state_since, now);
                            let (id, why) = (backend.id(), backend.why());
                            format!("{id} has been {state} {since}: {why}.{consequence}")
                        },
                    ));
                }
                _ => troubles.push(format!("{} are {state}.{consequence}", list(&found))),
            }
        }
        if self.backends.is_empty() {
            troubles.push("There is no backend: every request is answered with 503.".to_owned());
        } else if !self.backends.iter().any(BackendView::is_tried) {
            troubles.push("No backend takes new sessions: they are answered with 503.".to_owned());
        }
        if self.stats.violations() > 0 {
            troubles.push(format!(
                "{} served elsewhere for no stated reason. This is a bug: please report it.",
                match self.stats.violations() {
                    1 => "1 pinned request was".to_owned(),
                    many => format!("{} pinned requests were", words::count(many)),
                }
            ));
        }
        troubles
    }

    /// Which backends the operator has taken out, in parts of a sentence; empty when all are active. It is the
    /// operator's own wish, so it is no trouble.
    pub(super) fn set_apart(&self) -> Vec<String> {
        let kind = |backend: &BackendView| match backend.status.mode {
            Mode::Active => None,
            Mode::Disabled => Some("disabled"),
            _ if backend.status.is_drained() => Some("drained"),
            _ => Some("draining"),
        };
        let sentence = |wanted: &str| {
            let is_it = |backend: &&BackendView| kind(backend) == Some(wanted);
            let ids: Vec<_> = self.backends.iter().filter(is_it).map(BackendView::id).collect();
            match ids.len() {
                0 => None,
                1 => Some(format!("{} is {wanted}", ids[0])),
                2..=TOLD_APART => Some(format!("{} are {wanted}", list(&ids))),
                many => Some(format!("{} backends are {wanted}", words::count(many as u64))),
            }
        };
        ["disabled", "draining", "drained"].into_iter().filter_map(sentence).collect()
    }

    pub(super) fn backend(&self, id: &str) -> Option<&BackendView> {
        self.backends.iter().find(|backend| backend.id() == id)
    }

    /// The number that a value of each backend adds up to.
    pub(super) fn sum(&self, value: impl Fn(&BackendView) -> u64) -> u64 {
        self.backends.iter().map(value).sum()
    }
}

/// Names in a sentence: at most five.
fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] if names.len() <= 5 => format!("{} and {last}", first.join(", ")),
        _ => format!("{} and {} more", names[..4].join(", "), names.len() - 4),
    }
}
