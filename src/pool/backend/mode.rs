//! The words for how a backend is, and for what the operator wants of it.

use std::fmt;

/// Whether a backend can serve, as its health sources see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It serves. Unknown at the start counts as ready.
    Ready,
    /// It is saturated, or at its limit: it keeps its sessions and gets no new ones while another can take
    /// them.
    Busy,
    /// Requests or connections have failed there: others are preferred, and it is looked at until it is
    /// well. It is tried before a request is refused.
    Suspect,
    /// Its active probes have failed: it gets no request.
    Down,
}

impl State {
    /// The word used in logs and interfaces: `ready`, `busy`, `suspect` or `down`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Suspect => "suspect",
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
    /// Its drain is over: gets no request, and its sessions go elsewhere. Set by the deadline of a
    /// [drain](crate::Backends::drain).
    Drained,
}

impl Mode {
    /// The word used in logs and interfaces: `active`, `draining`, `disabled` or `drained`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
            Self::Drained => "drained",
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
