//! The HTTP/2 connections of a backend: one per runtime thread, shared by all requests of that thread. It is
//! opened once, however many requests wait for it.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;

use super::{
    address::Address,
    buffers::{Buffers, CONNECTION_WINDOW},
    http1::Answer,
    idle_pool::{shard_count, thread_slot},
    io::{ReadState, Socket},
    request_body::RequestBody,
};
use crate::{error::BoxError, util::lock};

/// A handle to a shared connection.
#[derive(Clone)]
pub(super) struct Http2 {
    sender: http2::SendRequest<RequestBody>,
    read_state: Arc<ReadState>,
    /// Of the backend's address: see [`Address`].
    generation: u64,
    /// Whether other requests have used the connection, so that it may have ended unnoticed.
    pub(super) reused: bool,
}

impl Http2 {
    pub(super) fn send(&mut self, request: http::Request<RequestBody>) -> Answer {
        Box::pin(self.sender.try_send_request(request))
    }

    /// Whether the connection, and not only one stream of it, has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.read_state.end() || self.sender.is_closed()
    }
}

pub(super) struct Shared {
    shards: Box<[Shard]>,
}

#[repr(align(64))]
struct Shard {
    current: Mutex<Option<Http2>>,
    /// Held by the request that opens the connection.
    dial_permit: Semaphore,
    /// How many dials have failed, and why the last one did.
    failures: AtomicU64,
    failure: Mutex<Option<Arc<BoxError>>>,
}

/// The error of a connection attempt, for all requests that waited for it.
#[derive(Debug, Clone)]
struct SharedError(Arc<BoxError>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.0)
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        let shard = |_| Shard {
            current: Mutex::new(None),
            dial_permit: Semaphore::new(1),
            failures: AtomicU64::new(0),
            failure: Mutex::new(None),
        };
        Self { shards: (0..shard_count()).map(shard).collect() }
    }

    /// This thread's connection of this generation, if it is open.
    pub(super) fn get(&self, generation: u64) -> Option<Http2> {
        self.shards[thread_slot() % self.shards.len()].get(generation)
    }

    /// This thread's connection, which is opened if there is none.
    pub(super) async fn dial(
        &self,
        address: &Arc<Address>,
        limit: Duration,
        redials: bool,
        buffers: Buffers,
    ) -> Result<Http2, BoxError> {
        let shard = &self.shards[thread_slot() % self.shards.len()];
        let failed_before = shard.failures.load(Ordering::Acquire);
        let _permit = shard.dial_permit.acquire().await?;
        if let Some(open) = shard.get(address.generation()) {
            return Ok(open);
        }
        if shard.failures.load(Ordering::Acquire) != failed_before {
            // The attempt that this one waited for has just failed. If each waiter tried again, each of a
            // thousand would wait for all before it.
            if let Some(error) = lock(&shard.failure).clone() {
                return Err(SharedError(error).into());
            }
        }
        match open(address, limit, redials, buffers).await {
            Ok(http2) => {
                let kept = Http2 { reused: true, ..http2.clone() };
                *lock(&shard.current) = Some(kept);
                Ok(http2)
            }
            Err(error) => {
                let error = Arc::new(error);
                *lock(&shard.failure) = Some(error.clone());
                shard.failures.fetch_add(1, Ordering::Release);
                Err(SharedError(error).into())
            }
        }
    }

    /// Removes `dead`, so that the next request opens a connection.
    pub(super) fn forget(&self, dead: &Http2) {
        for shard in &self.shards {
            let mut current = lock(&shard.current);
            if current.as_ref().is_some_and(|open| Arc::ptr_eq(&open.read_state, &dead.read_state))
            {
                let dropped = current.take();
                drop(current);
                drop(dropped);
                return;
            }
        }
    }
}

impl Shard {
    fn get(&self, generation: u64) -> Option<Http2> {
        let current = lock(&self.current);
        let open = current.as_ref()?;
        (open.generation == generation && !open.has_ended()).then(|| open.clone())
    }

    fn is_open(&self) -> bool {
        lock(&self.current).as_ref().is_some_and(|open| !open.has_ended())
    }
}

async fn open(
    address: &Arc<Address>,
    limit: Duration,
    redials: bool,
    buffers: Buffers,
) -> Result<Http2, BoxError> {
    let (stream, generation) = address.connect(limit, redials).await?;
    let (socket, read_state) = Socket::new(stream, buffers.read());
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .initial_stream_window_size(buffers.window())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(buffers.send());
    let (sender, driver) = http2.handshake(TokioIo::new(socket)).await?;
    drop(tokio::spawn(driver));
    Ok(Http2 { sender, read_state, generation, reused: false })
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = self.shards.iter().filter(|shard| shard.is_open()).count();
        f.debug_struct("Shared").field("open", &open).finish_non_exhaustive()
    }
}
