//! Look-ups under way: one per session, however many requests want it.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

use super::cached_pin::CachedPin;
use crate::{pool::TagHasher, store::traits::SessionKey, util::lock};

/// What the engine said.
#[derive(Clone)]
pub(super) enum LookupResult {
    /// Where the session is.
    Known(Arc<CachedPin>),
    /// That it does not know the session.
    Nothing,
    /// Nothing at all.
    Down,
}

pub(super) type Told = watch::Receiver<Option<LookupResult>>;

#[derive(Default)]
pub(super) struct SingleFlight(Mutex<HashMap<SessionKey, Told, BuildHasherDefault<TagHasher>>>);

impl SingleFlight {
    /// Joins the look-up of a session, or begins one: then also where its result is told.
    pub(super) fn join(
        &self,
        key: SessionKey,
    ) -> (Told, Option<watch::Sender<Option<LookupResult>>>) {
        let mut flights = self.lock();
        if let Some(told) = flights.get(&key) {
            return (told.clone(), None);
        }
        let (sender, told) = watch::channel(None);
        flights.insert(key, told.clone());
        (told, Some(sender))
    }

    /// The look-up has ended.
    pub(super) fn end(&self, key: SessionKey) {
        self.lock().remove(&key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Told, BuildHasherDefault<TagHasher>>> {
        lock(&self.0)
    }
}

/// Waits for the result. If the task is gone that was to bring it, there is none.
pub(super) async fn wait(mut told: Told) -> LookupResult {
    match told.wait_for(Option::is_some).await {
        Ok(found) => found.clone().unwrap_or(LookupResult::Down),
        Err(_) => LookupResult::Down,
    }
}
