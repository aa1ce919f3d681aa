//! The URLs of discovered backends, which come and go without the fleet.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

#[cfg(feature = "dns")]
use tokio::time::{Duration, Instant};

/// A backend joins the pool after its URL is known. An entry that is older has left it.
#[cfg(feature = "dns")]
const JOINS_WITHIN: Duration = Duration::from_secs(60);

/// The URL of each discovered backend, by its id.
#[derive(Debug, Default)]
pub(crate) struct DiscoveredUrls(Mutex<HashMap<String, Discovered>>);

#[derive(Debug)]
struct Discovered {
    url: String,
    #[cfg(feature = "dns")]
    since: Instant,
}

impl DiscoveredUrls {
    pub(crate) fn get(&self, id: &str) -> Option<String> {
        self.lock().get(id).map(|discovered| discovered.url.clone())
    }

    /// Sets the URL of a backend, and forgets those of backends that have left the pool.
    #[cfg(feature = "dns")]
    pub(crate) fn insert(&self, id: String, url: String, is_in_pool: impl Fn(&str) -> bool) {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|id, discovered| discovered.since + JOINS_WITHIN > now || is_in_pool(id));
        all.insert(id, Discovered { url, since: now });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Discovered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
