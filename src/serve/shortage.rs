//! Accepting while this machine has no file descriptors left: clients get a 503 instead of silence.

use std::{fs::File, io, time::Duration};

use tokio::time::{Instant, sleep};

use super::{acceptor::Incoming, connection_limit::ConnectionPermit};
use crate::error::Shortage;

/// How long to wait after a failed accept; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long clients wait in the kernel's queue before they get a 503.
const TURN_AWAY_AFTER: Duration = Duration::from_secs(1);

/// How often a shortage is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

const UNAVAILABLE: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
                         content-length: 0\r\n\r\n";

/// The state while connections cannot be accepted.
pub(super) struct ShortageState {
    /// A reserved descriptor, with which one client at a time can be answered.
    reserve: Option<File>,
    since: Option<Instant>,
    pause: Duration,
    count: u64,
    logged: Option<Instant>,
}

impl ShortageState {
    pub(super) fn new() -> Self {
        Self { reserve: reserve(), since: None, pause: FIRST_PAUSE, count: 0, logged: None }
    }

    /// Whether there are descriptors for an accepted connection and the reserve.
    pub(super) fn can_serve(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        if self.reserve.is_some() {
            (self.since, self.pause) = (None, FIRST_PAUSE);
        }
        self.reserve.is_some() || self.since.is_none()
    }

    /// Answers a client with 503, and reserves its descriptor again. `None` is one that could not read it.
    pub(super) fn turn_away(&mut self, incoming: Option<Incoming>) {
        if let Some(incoming) = incoming {
            incoming.answer(UNAVAILABLE);
        }
        self.reserve = reserve();
    }

    /// Waits after an error. When errors last, the reserve is released for one client.
    pub(super) async fn wait(&mut self, error: &io::Error, permit: ConnectionPermit) {
        drop(permit);
        let now = Instant::now();
        self.log(error, now);
        let since = *self.since.get_or_insert(now);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if since.elapsed() >= TURN_AWAY_AFTER {
            self.reserve = None;
        }
    }

    fn log(&mut self, error: &io::Error, now: Instant) {
        self.count += 1;
        if self.logged.is_some_and(|logged| now - logged < LOG_INTERVAL) {
            return;
        }
        let (count, why) = (std::mem::take(&mut self.count), Shortage::of(error));
        self.logged = Some(now);
        match why {
            Some(shortage) => {
                tracing::error!(count, %error, "cannot accept connections: {shortage}");
            }
            None => tracing::error!(count, %error, "cannot accept connections"),
        }
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}
