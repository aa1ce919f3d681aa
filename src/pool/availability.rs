//! Derives the availability of a backend from its health sources.

use tokio::time::Instant;

use super::{Evidence, ProbeState, State};

/// Whether a backend can take requests, derived from all health sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    Ready,
    Busy,
    /// There is evidence against it, or its readiness has failed.
    Suspect,
    Down,
}

impl Availability {
    /// Whether it is neither suspect nor down.
    pub(crate) fn is_healthy(self) -> bool {
        matches!(self, Self::Ready | Self::Busy)
    }

    /// The state that users see.
    pub(crate) fn state(self) -> State {
        match self {
            Self::Ready => State::Ready,
            Self::Busy => State::Busy,
            Self::Suspect => State::Suspect,
            Self::Down => State::Down,
        }
    }
}

/// The result of the last readiness poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Readiness {
    #[default]
    Ready,
    Busy,
    Failed,
}

/// The health sources of one backend.
#[derive(Debug, Default)]
pub(crate) struct HealthSources {
    pub(crate) readiness: Readiness,
    pub(crate) evidence: Evidence,
    pub(crate) probes: ProbeState,
    /// The generation of the service; results from older generations are ignored.
    pub(crate) generation: u64,
}

impl HealthSources {
    /// Resets everything, as the backend has another service.
    pub(crate) fn reset(&mut self) {
        // The numbers of rechecks continue, so that the result of a running one is ignored.
        let mut rechecks = std::mem::take(&mut self.evidence.rechecks);
        rechecks.invalidate();
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::default() };
        self.evidence.rechecks = rechecks;
    }

    /// The availability that follows from the sources.
    pub(super) fn availability(&self) -> Availability {
        match self.readiness {
            _ if self.probes.is_down() => Availability::Down,
            Readiness::Failed => Availability::Suspect,
            _ if self.evidence.is_suspect() => Availability::Suspect,
            Readiness::Busy => Availability::Busy,
            Readiness::Ready => Availability::Ready,
        }
    }

    /// Since when the backend has been unreachable: its connections are refused, or its probes fail.
    pub(crate) fn outage(&self) -> Option<Instant> {
        [self.evidence.outage(), self.probes.down_since()].into_iter().flatten().min()
    }
}
