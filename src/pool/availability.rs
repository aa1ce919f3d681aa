//! From what the health sources say to what a request meets.

use tokio::time::Instant;

use super::{Evidence, ProbeState, State};

/// The health that a request meets, from all sources together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    Ready,
    Busy,
    /// There is evidence against it.
    Suspect,
    Down,
}

impl Availability {
    /// Whether nothing is held against it.
    pub(crate) fn is_healthy(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }

    /// The health shown to people.
    pub(crate) fn state(self) -> State {
        match self {
            Self::Ready => State::Ready,
            Self::Busy => State::Busy,
            Self::Suspect => State::Suspect,
            Self::Down => State::Down,
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
pub(crate) struct HealthSources {
    pub(crate) readiness: Readiness,
    pub(crate) evidence: Evidence,
    pub(crate) probes: ProbeState,
    /// Grows with each service that the backend is given.
    pub(crate) generation: u64,
}

impl HealthSources {
    /// The backend has another service, of which nothing is known.
    pub(crate) fn reset(&mut self) {
        // The rechecks are numbered on: the result of one that is under way is of no interest.
        let mut rechecks = std::mem::take(&mut self.evidence.rechecks);
        rechecks.invalidate();
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::default() };
        self.evidence.rechecks = rechecks;
    }

    /// The health that all sources together make.
    pub(super) fn availability(&self) -> Availability {
        match self.readiness {
            _ if self.probes.is_down() => Availability::Down,
            Readiness::Failed => Availability::Suspect,
            _ if self.evidence.is_suspect() => Availability::Suspect,
            Readiness::Busy => Availability::Busy,
            Readiness::Ready => Availability::Ready,
        }
    }

    /// Since when the backend has been out of reach: its connections are refused, or its probes have it
    /// down.
    pub(crate) fn outage(&self) -> Option<Instant> {
        [self.evidence.outage(), self.probes.down_since()].into_iter().flatten().min()
    }
}
