//! The servers as they are, and the clock of the gateway that has the request.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tokio::time::Instant;
use tower_service::Service;
use tower_sticky::{BoxError, NotSent, WallClock};

/// All servers, by number.
#[derive(Debug)]
pub(crate) struct World {
    running: Vec<AtomicBool>,
    served_by: AtomicUsize,
}

impl World {
    pub(crate) fn new(servers: usize) -> Arc<Self> {
        let running = (0..servers).map(|_| AtomicBool::new(true)).collect();
        Arc::new(Self { running, served_by: AtomicUsize::new(usize::MAX) })
    }

    pub(crate) fn is_running(&self, number: usize) -> bool {
        self.running[number].load(Relaxed)
    }

    pub(crate) fn set_running(&self, number: usize, running: bool) {
        self.running[number].store(running, Relaxed);
    }

    /// The server of the last response; `None` if no server has responded since the last call.
    pub(crate) fn take_served_by(&self) -> Option<usize> {
        let number = self.served_by.swap(usize::MAX, Relaxed);
        (number != usize::MAX).then_some(number)
    }
}

/// A client of one server, which refuses connections while the server does not run.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) number: usize,
    pub(crate) world: Arc<World>,
}

impl Service<Request<()>> for Server {
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        if !self.world.is_running(self.number) {
            let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
            return ready(Err(NotSent::new(request, refused).into()));
        }
        self.world.served_by.store(self.number, Relaxed);
        ready(Ok(Response::new(Empty::new())))
    }
}

/// The clock of the gateway that has the request.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    begun: (Instant, SystemTime),
    ahead_secs: Arc<AtomicI64>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Self { begun: (Instant::now(), date), ahead_secs: Arc::default() }
    }

    /// Sets by how much the clock is ahead of the true time; less than 0 if it is behind.
    pub(crate) fn set_ahead(&self, seconds: i64) {
        self.ahead_secs.store(seconds, Relaxed);
    }
}

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        let (instant, date) = self.begun;
        let ahead = self.ahead_secs.load(Relaxed);
        let skew = Duration::from_secs(ahead.unsigned_abs());
        let true_date = date + instant.elapsed();
        if ahead < 0 { true_date - skew } else { true_date + skew }
    }
}

/// The response of a service that does not fail.
pub(crate) fn unwrap_infallible<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

/// Random numbers that follow from a seed (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}
