//! Accepting connections, also when this machine has hardly anything left for them.

use std::{
    fs::File,
    io::{self, Write},
    iter::Cycle,
    slice::Iter,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep},
};
use tower_sticky::Shortage;

use super::{Accepted, socket_options::find_dead_peers};

/// How long to wait when nothing can be accepted: this long, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long clients wait in the kernel's queue before they are told that there is no room for them.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a shortage is logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
                         content-length: 0\r\n\r\n";

/// Accepts while there are places, and deals the connections out in turn.
pub(super) async fn accept(
    listener: TcpListener,
    hands: Vec<mpsc::UnboundedSender<Accepted>>,
    places: Arc<Semaphore>,
    user_timeout: Duration,
) {
    let mut turns = hands.iter().cycle();
    let mut trouble = Trouble::new();
    loop {
        // Without a place nothing is accepted: the client waits in the kernel's queue.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) if !trouble.has_room() => trouble.turn_away(stream),
            Ok((stream, addr)) => {
                // Small answers must not wait for the client's delayed acknowledgement.
                let taken = stream.set_nodelay(true).and_then(|()| stream.into_std());
                if let Ok(stream) = taken {
                    if let Err(error) = find_dead_peers(&stream, user_timeout) {
                        tracing::debug!(%error, "a socket option could not be set");
                    }
                    deal(&mut turns, Accepted { stream, addr, place });
                }
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => trouble.wait(&error, place).await,
        }
    }
}

fn deal(turns: &mut Cycle<Iter<'_, mpsc::UnboundedSender<Accepted>>>, accepted: Accepted) {
    if turns.next().is_none_or(|hand| hand.send(accepted).is_err()) {
        tracing::error!("a worker is gone; its connections are lost");
    }
}

/// What is known while connections cannot be accepted.
struct Trouble {
    /// A descriptor in reserve: with it one client at a time can be told.
    reserve: Option<File>,
    since: Option<Instant>,
    pause: Duration,
    count: u64,
    said: Option<Instant>,
}

impl Trouble {
    fn new() -> Self {
        Self { reserve: reserve(), since: None, pause: FIRST_PAUSE, count: 0, said: None }
    }

    /// Whether there is room for a connection that was accepted, and the reserve beside it.
    fn has_room(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        if self.reserve.is_some() {
            (self.since, self.pause) = (None, FIRST_PAUSE);
        }
        self.reserve.is_some() || self.since.is_none()
    }

    /// Tells a client that there is no room for it, and takes the reserve back.
    fn turn_away(&mut self, stream: TcpStream) {
        // It fits into any socket's buffer.
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write_all(NO_ROOM);
        }
        self.reserve = reserve();
    }

    /// Waits for a while after an error. When that has lasted, the reserve makes room for one client.
    async fn wait(&mut self, error: &io::Error, place: OwnedSemaphorePermit) {
        drop(place);
        let now = Instant::now();
        self.say(error, now);
        let since = *self.since.get_or_insert(now);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if since.elapsed() >= PATIENCE {
            self.reserve = None;
        }
    }

    fn say(&mut self, error: &io::Error, now: Instant) {
        self.count += 1;
        if self.said.is_some_and(|said| now - said < LOG_INTERVAL) {
            return;
        }
        let (count, why) = (std::mem::take(&mut self.count), Shortage::of(error));
        self.said = Some(now);
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

/// Whether an error is about the connection that was to be accepted, and not about accepting.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}
