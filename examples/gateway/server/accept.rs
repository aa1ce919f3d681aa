//! Accepts connections, also when this machine runs out of file descriptors.

use std::{
    fs::File,
    io::{self, Write},
    iter::Cycle,
    slice::Iter,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep},
};
use tower_sticky::Shortage;

use super::{Accepted, limits::ServerLimits, socket_options};

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

/// Accepts while there are permits, and distributes the connections round robin.
pub(super) async fn accept(
    listener: TcpListener,
    senders: Vec<mpsc::UnboundedSender<Accepted>>,
    permits: Arc<Semaphore>,
    limits: &ServerLimits,
    exhausted: &AtomicBool,
) {
    let mut workers = senders.iter().cycle();
    let mut shortage = ShortageState::new();
    loop {
        let Some(permit) = permit(&permits, exhausted).await else { return };
        match listener.accept().await {
            Ok((stream, _)) if !shortage.can_serve() => shortage.turn_away(stream),
            Ok((stream, addr)) => {
                // Small answers must not wait for the client's delayed acknowledgement.
                let prepared = stream.set_nodelay(true).and_then(|()| stream.into_std());
                if let Ok(stream) = prepared {
                    if let Err(error) = socket_options::apply(&stream, limits) {
                        tracing::debug!(%error, "a socket option could not be set");
                    }
                    distribute(&mut workers, Accepted { stream, addr, permit });
                }
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => shortage.wait(&error, permit).await,
        }
    }
}

/// Waits for a permit. Without one no connection is accepted: the client waits in the kernel's queue, and
/// connections that linger are closed.
async fn permit(permits: &Arc<Semaphore>, exhausted: &AtomicBool) -> Option<OwnedSemaphorePermit> {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return Some(permit);
    }
    exhausted.store(true, Relaxed);
    let permit = permits.clone().acquire_owned().await;
    exhausted.store(false, Relaxed);
    permit.ok()
}

fn distribute(workers: &mut Cycle<Iter<'_, mpsc::UnboundedSender<Accepted>>>, accepted: Accepted) {
    if workers.next().is_none_or(|sender| sender.send(accepted).is_err()) {
        tracing::error!("a worker has ended; its connections are lost");
    }
}

/// The state while connections cannot be accepted.
struct ShortageState {
    /// A reserved descriptor, with which one client at a time can be answered.
    reserve: Option<File>,
    since: Option<Instant>,
    pause: Duration,
    count: u64,
    logged: Option<Instant>,
}

impl ShortageState {
    fn new() -> Self {
        Self { reserve: reserve(), since: None, pause: FIRST_PAUSE, count: 0, logged: None }
    }

    /// Whether there are descriptors for an accepted connection and the reserve.
    fn can_serve(&mut self) -> bool {
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        if self.reserve.is_some() {
            (self.since, self.pause) = (None, FIRST_PAUSE);
        }
        self.reserve.is_some() || self.since.is_none()
    }

    /// Answers a client with 503, and reserves its descriptor again.
    fn turn_away(&mut self, stream: TcpStream) {
        // It fits into the buffer of any socket.
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write_all(UNAVAILABLE);
        }
        self.reserve = reserve();
    }

    /// Waits after an error. When errors last, the reserve is released for one client.
    async fn wait(&mut self, error: &io::Error, permit: OwnedSemaphorePermit) {
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

/// Whether it is an error of the connection, and not of accepting.
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
