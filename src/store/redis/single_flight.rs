//! Shares one look-up in Redis between all requests that wait for the same session.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::cached_pin::CachedPin;
use crate::{pool::TagHasher, store::traits::SessionKey, util::lock};

/// The result of a look-up in Redis.
#[derive(Clone)]
pub(super) enum LookupResult {
    Found(Arc<CachedPin>),
    NotFound,
    /// Redis has not answered.
    Unavailable,
}

pub(super) type Receiver = watch::Receiver<Option<LookupResult>>;
pub(super) type Sender = watch::Sender<Option<LookupResult>>;

/// The look-ups in flight, by session.
#[derive(Default)]
pub(super) struct SingleFlight {
    // The keys are hashes already.
    in_flight: Mutex<HashMap<SessionKey, Receiver, BuildHasherDefault<TagHasher>>>,
}

impl SingleFlight {
    /// Joins the look-up of a session, or begins one. The caller that gets a sender makes the look-up,
    /// and [removes](Self::remove) it at its end.
    pub(super) fn join(&self, key: SessionKey) -> (Receiver, Option<Sender>) {
        let mut in_flight = lock(&self.in_flight);
        if let Some(receiver) = in_flight.get(&key) {
            return (receiver.clone(), None);
        }
        let (sender, receiver) = watch::channel(None);
        in_flight.insert(key, receiver.clone());
        (receiver, Some(sender))
    }

    pub(super) fn remove(&self, key: SessionKey) {
        lock(&self.in_flight).remove(&key);
    }
}

/// Waits for the result. It is `Unavailable` if the task of the look-up has ended without one.
pub(super) async fn wait(mut receiver: Receiver) -> LookupResult {
    match receiver.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(LookupResult::Unavailable),
        Err(_) => LookupResult::Unavailable,
    }
}
