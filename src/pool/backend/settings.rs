//! The settings of a backend, which the operator or a feed can change at run time.

use std::sync::{Arc, atomic::Ordering::Relaxed};

#[cfg(any(feature = "discover", feature = "dns"))]
use super::owner::OwnerRef;
use super::{DrainPhase, state::BackendState};
use crate::pool::{BackendOptions, Mode, availability::HealthSources};
#[cfg(any(feature = "discover", feature = "dns"))]
use crate::util::lock;

impl BackendState {
    #[inline]
    pub(crate) fn mode(&self) -> Mode {
        match self.standing.mode.load(Relaxed) {
            0 => Mode::Active,
            1 => Mode::Draining,
            2 => Mode::Disabled,
            _ => Mode::Drained,
        }
    }

    #[inline]
    pub(crate) fn weight(&self) -> u32 {
        self.standing.weight.load(Relaxed)
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.standing.weight.store(weight, Relaxed);
    }

    /// Whether its settings let it take new sessions, whatever its health.
    pub(crate) fn may_take_new_sessions(&self) -> bool {
        self.mode() == Mode::Active && self.weight() > 0
    }

    #[inline]
    pub(crate) fn limit(&self) -> usize {
        self.permits.limit()
    }

    /// Sets the most requests that may be in flight; 0 for no limit. Requests that came while there was
    /// no limit are not counted.
    pub(crate) fn set_limit(&self, max: usize) {
        self.permits.set_limit(max);
    }

    pub(crate) fn is_backup(&self) -> bool {
        self.standing.backup.load(Relaxed)
    }

    pub(crate) fn set_backup(&self, backup: bool) {
        self.standing.backup.store(backup, Relaxed);
    }

    pub(crate) fn zone(&self) -> Option<String> {
        self.zone.load().as_deref().cloned()
    }

    pub(crate) fn is_in(&self, zone: Option<&str>) -> bool {
        self.zone.load().as_deref().map(String::as_str) == zone
    }

    pub(crate) fn set_zone(&self, zone: Option<String>) {
        self.zone.store(zone.map(Arc::new));
    }

    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(crate) fn owner(&self) -> OwnerRef {
        lock(&self.owner).clone()
    }

    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(crate) fn set_owner(&self, owner: OwnerRef) {
        *lock(&self.owner) = owner;
    }

    /// Applies the options of a backend that joins.
    pub(crate) fn apply(&self, options: &BackendOptions) {
        self.set_weight(options.weight);
        self.set_limit(options.limit);
        self.set_backup(options.backup);
        self.set_zone(options.zone.clone());
    }

    /// Joins again with the settings of `fresh`. The counters continue, and the health is reset.
    pub(crate) fn rejoin(&self, fresh: &Self) {
        self.set_mode(fresh.mode());
        self.since.joined();
        self.set_weight(fresh.weight());
        self.set_limit(fresh.limit());
        self.set_backup(fresh.is_backup());
        self.set_zone(fresh.zone());
        self.drain.set_phase(DrainPhase::Serving);
        #[cfg(any(feature = "discover", feature = "dns"))]
        self.set_owner(fresh.owner());
        self.update(HealthSources::reset);
    }
}
