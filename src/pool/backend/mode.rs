//! `State` and `Mode` of a backend: its health, and what the operator has set.

use std::fmt;

/// The health of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// It can serve. A backend starts in this state.
    Ready,
    /// It is saturated or at its limit: it keeps its sessions, and gets no new ones while another backend
    /// can take them.
    Busy,
    /// Requests or connections have failed: other backends are preferred, and it is rechecked until it has
    /// recovered. It is tried before a request is refused.
    Suspect,
    /// Its active probes have failed: it gets no requests.
    Down,
}

impl State {
    /// The name in logs and interfaces: `ready`, `busy`, `suspect` or `down`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// What the operator has set a backend to do, with [`Backends::set_mode`](crate::Backends::set_mode) or a
/// [drain](crate::Backends::drain).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Serves its sessions and takes new ones.
    Active,
    /// Serves its sessions and takes no new ones.
    Draining,
    /// Gets no requests, as if it were down.
    Disabled,
    /// Gets no requests, and its sessions go elsewhere. Set when the deadline of a
    /// [drain](crate::Backends::drain) has passed.
    Drained,
}

impl Mode {
    /// The name in logs and interfaces: `active`, `draining`, `disabled` or `drained`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_modes_are_written_as_words() {
        let states = [State::Ready, State::Busy, State::Suspect, State::Down];
        assert_eq!(states.map(|state| state.to_string()), ["ready", "busy", "suspect", "down"]);
        let modes = [Mode::Active, Mode::Draining, Mode::Disabled, Mode::Drained];
        let words = ["active", "draining", "disabled", "drained"];
        assert_eq!(modes.map(|mode| mode.to_string()), words);
    }
}
