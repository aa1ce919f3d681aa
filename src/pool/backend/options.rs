//! `BackendOptions`: the settings of a backend that joins.

/// The settings of a backend that joins a pool; see [`Backends::insert_with`](crate::Backends::insert_with).
///
/// # Example
///
/// ```
/// use tower_sticky::{BackendOptions, Backends};
///
/// let backends: Backends<()> = Backends::from_iter([("a", ())]);
/// backends.insert_with("b", (), BackendOptions::new().weight(3).limit(500))?;
/// backends.insert_with("spare", (), BackendOptions::new().backup(true))?;
/// # Ok::<(), tower_sticky::PoolError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendOptions {
    pub(crate) weight: u32,
    pub(crate) limit: usize,
    pub(crate) backup: bool,
    pub(crate) zone: Option<String>,
}

impl BackendOptions {
    /// Weight 1, no limit, not a backup, no zone.
    pub const fn new() -> Self {
        Self { weight: 1, limit: 0, backup: false, zone: None }
    }

    /// The backend's share of new sessions, relative to the others; 0 takes none; default 1.
    #[must_use]
    pub const fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The most requests that the backend may have in flight; 0 for no limit, which is the default. See
    /// [`Backends::set_limit`](crate::Backends::set_limit).
    #[must_use]
    pub const fn limit(mut self, max_in_flight: usize) -> Self {
        self.limit = max_in_flight;
        self
    }

    /// Whether the backend takes sessions only when no primary backend is up; default `false`. A primary
    /// backend that is busy is up, and requests wait for it.
    ///
    /// Sessions that a backup has taken stay with it, unless
    /// [`return_from_backup`](crate::StickyLayer::return_from_backup) says otherwise.
    #[must_use]
    pub const fn backup(mut self, backup: bool) -> Self {
        self.backup = backup;
        self
    }

    /// The backend's zone, for example `"eu-1"`; default none. New sessions prefer the pool's own zone:
    /// see [`Backends::set_own_zone`](crate::Backends::set_own_zone).
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = Some(zone.into());
        self
    }
}

impl Default for BackendOptions {
    fn default() -> Self {
        Self::new()
    }
}
