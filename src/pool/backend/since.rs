//! Since when a backend has been in its state and its mode, and why.

use std::{sync::Mutex, time::SystemTime};

use crate::{
    pool::Cause,
    util::{SystemClock, WallClock, lock},
};

/// Since when a backend has been in its state and its mode.
#[derive(Debug)]
pub(crate) struct Since(Mutex<LastChanges>);

#[derive(Debug, Clone, Copy)]
pub(crate) struct LastChanges {
    pub(crate) state: SystemTime,
    /// `None` since it joined.
    pub(crate) cause: Option<Cause>,
    pub(crate) mode: SystemTime,
}

impl LastChanges {
    fn now() -> Self {
        let now = SystemClock.now();
        Self { state: now, cause: None, mode: now }
    }
}

impl Default for Since {
    fn default() -> Self {
        Self(Mutex::new(LastChanges::now()))
    }
}

impl Since {
    /// It has joined its pool again.
    pub(crate) fn joined(&self) {
        *lock(&self.0) = LastChanges::now();
    }

    /// Its state has changed now.
    pub(crate) fn state_changed(&self, cause: Cause) {
        let mut last = lock(&self.0);
        (last.state, last.cause) = (SystemClock.now(), Some(cause));
    }

    /// Its mode has changed now.
    pub(crate) fn mode_changed(&self) {
        lock(&self.0).mode = SystemClock.now();
    }

    pub(crate) fn get(&self) -> LastChanges {
        *lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::BackendId,
        pool::{BackendState, Mode},
    };

    #[test]
    fn a_mode_lasts_until_another_one_is_set() {
        let state = BackendState::new(BackendId::new("a").unwrap());
        lock(&state.since.0).mode = SystemTime::UNIX_EPOCH;
        state.set_mode(Mode::Active);
        assert_eq!(state.since.get().mode, SystemTime::UNIX_EPOCH, "it was active before");
        state.set_mode(Mode::Draining);
        assert!(state.since.get().mode > SystemTime::UNIX_EPOCH);
    }
}
