//! What is known about one backend, shared by everything that asks or tells.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;

use super::BackendId;
use crate::health::{Active, Passive, Ramp, Window};

/// Whether a backend can serve, as its health sources see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It serves. Unknown at the start counts as ready.
    Ready,
    /// It is saturated: it keeps its sessions and gets no new ones while another can take them.
    Busy,
    /// It cannot serve.
    Down,
}

impl State {
    /// The word used in logs and interfaces: `ready`, `busy` or `down`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Down => "down",
        }
    }
}

/// What the operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Serves its sessions and takes new ones.
    Active,
    /// Serves its sessions and takes no new ones.
    Draining,
    /// Gets no request, as if it were down.
    Disabled,
}

impl Mode {
    /// The word used in logs and interfaces: `active`, `draining` or `disabled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The health that a request meets, from all sources together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    Ready,
    Busy,
    /// Half open: the next request is a trial, one at a time.
    Trial,
    Down,
}

impl Gate {
    /// The health shown to people: a backend on trial is not up yet.
    pub(crate) fn state(self) -> State {
        match self {
            Self::Ready => State::Ready,
            Self::Busy => State::Busy,
            Self::Trial | Self::Down => State::Down,
        }
    }
}

/// What the readiness poll saw last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Readiness {
    #[default]
    Ready,
    Busy,
    Failed,
}

#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) readiness: Readiness,
    pub(crate) passive: Passive,
    pub(crate) active: Active,
    /// Grows with each service that the backend is given.
    pub(crate) generation: u64,
}

impl Sources {
    /// The backend has another service, of which nothing is known.
    pub(crate) fn forget(&mut self) {
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::default() };
    }
}

pub(crate) struct BackendState {
    pub(crate) id: BackendId,
    pub(crate) tag: u64,
    gate: AtomicU8,
    /// Whether an answer would change what passive detection thinks.
    suspect: AtomicBool,
    /// Whether passive detection has it out, or on trial.
    ejected: AtomicBool,
    mode: AtomicU8,
    weight: AtomicU32,
    /// Requests that came, and of them those that went: in flight is the difference.
    entered: AtomicU64,
    left: AtomicU64,
    waiting: AtomicUsize,
    /// 0 for no limit.
    max: AtomicUsize,
    slots: ArcSwapOption<Semaphore>,
    pub(crate) latency: super::Latency,
    pub(crate) window: Window,
    pub(crate) ramp: Ramp,
    sources: Mutex<Sources>,
}

impl BackendState {
    pub(crate) fn new(id: BackendId) -> Self {
        let tag = id.tag();
        Self {
            id,
            tag,
            gate: AtomicU8::new(0),
            suspect: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            mode: AtomicU8::new(0),
            weight: AtomicU32::new(1),
            entered: AtomicU64::new(0),
            left: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            max: AtomicUsize::new(0),
            slots: ArcSwapOption::empty(),
            latency: super::Latency::default(),
            window: Window::default(),
            ramp: Ramp::default(),
            sources: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) fn gate(&self) -> Gate {
        match self.gate.load(Relaxed) {
            0 => Gate::Ready,
            1 => Gate::Busy,
            2 => Gate::Trial,
            _ => Gate::Down,
        }
    }

    /// Whether an answer from it would be news to passive detection.
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Relaxed)
    }

    /// Whether passive detection has it out, or on trial.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Whether it may be given a new session now.
    pub(crate) fn takes_new(&self) -> bool {
        self.mode() == Mode::Active && self.weight() > 0 && self.gate() != Gate::Down
    }

    pub(crate) fn state(&self) -> State {
        self.gate().state()
    }

    #[inline]
    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Relaxed) {
            0 => Mode::Active,
            1 => Mode::Draining,
            _ => Mode::Disabled,
        }
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, Relaxed);
    }

    #[inline]
    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        let left = self.left.load(Relaxed);
        self.entered.load(Relaxed).saturating_sub(left) as usize
    }

    pub(crate) fn requests(&self) -> u64 {
        self.entered.load(Relaxed)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    pub(crate) fn limit(&self) -> usize {
        self.max.load(Relaxed)
    }

    /// The slots of a limited backend; `None` when it has no limit.
    #[inline]
    pub(crate) fn slots(&self) -> Option<Arc<Semaphore>> {
        if self.limit() == 0 { None } else { self.slots.load_full() }
    }

    /// Sets the most requests that may be in flight; 0 for no limit. Requests that are in flight
    /// at that moment do not count against a new limit.
    pub(crate) fn set_limit(&self, max: usize) {
        let max = max.min(Semaphore::MAX_PERMITS);
        if max != self.limit() {
            self.slots.store((max > 0).then(|| Arc::new(Semaphore::new(max))));
            self.max.store(max, Relaxed);
        }
    }

    #[inline]
    pub(crate) fn enter(&self) {
        self.entered.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn leave(&self) {
        self.left.fetch_add(1, Relaxed);
    }

    /// Takes a place in the queue unless `max` are taken.
    pub(crate) fn start_waiting(&self, max: usize) -> bool {
        self.waiting.fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1)).is_ok()
    }

    pub(crate) fn stop_waiting(&self) {
        self.waiting.fetch_sub(1, Relaxed);
    }

    /// Changes what the health sources say, and tells whether that changed the gate.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Sources)) -> Option<(Gate, Gate)> {
        let mut sources = self.sources();
        change(&mut sources);
        let down = sources.passive.is_ejected() || sources.active.is_down();
        let gate = match (sources.readiness, down) {
            (Readiness::Failed, _) | (_, true) => Gate::Down,
            _ if sources.passive.is_on_trial() => Gate::Trial,
            (Readiness::Busy, _) => Gate::Busy,
            (Readiness::Ready, _) => Gate::Ready,
        };
        self.suspect.store(!sources.passive.is_quiet(), Relaxed);
        self.ejected.store(sources.passive.is_out(), Relaxed);
        let before = self.gate();
        self.gate.store(gate as u8, Relaxed);
        (before != gate).then_some((before, gate))
    }

    pub(crate) fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("id", &self.id)
            .field("state", &self.state())
            .field("mode", &self.mode())
            .field("weight", &self.weight())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
