//! Paused time, a wall clock, and the states that backends take meanwhile.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use tower_sticky::{Backends, Cause, Event, Events, State, WallClock};

use super::Node;

/// Advances the paused time by `millis`.
pub async fn after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// The requests in flight to a backend, and those that wait for it.
pub fn load<S>(backends: &Backends<S>, id: &str) -> (usize, usize) {
    let status = backends.get(id).unwrap();
    (status.in_flight, status.waiting)
}

/// Waits, in paused time, until a backend has this state.
pub async fn until(backends: &Backends<Node>, id: &str, state: State) {
    for _ in 0..10_000 {
        if backends.get(id).unwrap().state == state {
            return;
        }
        after(10).await;
    }
    panic!("in 100 s {id} did not become {state}");
}

/// The changes of health since the last call: the backend, its new state, and the cause.
pub async fn health_changes(events: &mut Events) -> Vec<(String, State, Cause)> {
    let mut changes = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        if let Event::State { backend, to, cause, .. } = event {
            changes.push((backend.to_string(), to, cause));
        }
    }
    changes
}

/// A wall clock that a test sets.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Mutex<u64>>);

impl Clock {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(1_800_000_000)))
    }

    pub fn advance(&self, seconds: i64) {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add_signed(seconds).unwrap();
    }
}

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(*self.0.lock().unwrap())
    }
}

pub const MS: Duration = Duration::from_millis(1);

pub fn state(backends: &Backends<Node>, id: &str) -> State {
    backends.get(id).unwrap().state
}
