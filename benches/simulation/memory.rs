//! What a gateway keeps in memory for sessions with tokens.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fmt,
    sync::atomic::{AtomicI64, Ordering::Relaxed},
};

use http::Request;
use tower_service::Service;

use crate::{
    Failure,
    plan::Options,
    view::View,
    world::{Clock, World, unwrap_infallible},
};

/// Counts the bytes that are allocated.
pub(crate) struct Counting;

static ALLOCATED: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as i64, Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size() as i64, Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What was measured, in bytes.
#[derive(Debug)]
pub(crate) struct Measured {
    sessions: u64,
    backends: u64,
    bytes: i64,
    bytes_of_pool: i64,
}

/// Places all sessions on one gateway, and measures by how much its memory has grown.
pub(crate) async fn measure(options: Options) -> Result<Measured, Failure> {
    let (world, clock) = (World::new(options.backends as usize), Clock::new());
    let before = ALLOCATED.load(Relaxed);
    let mut view = View::new(&world, &clock, options.backends as usize, options.seed)?;
    let with_pool = ALLOCATED.load(Relaxed);
    for _ in 0..options.sessions {
        drop(unwrap_infallible(view.service.call(Request::new(())).await));
    }
    let with_sessions = ALLOCATED.load(Relaxed);
    Ok(Measured {
        sessions: options.sessions,
        backends: options.backends,
        bytes: with_sessions - with_pool,
        bytes_of_pool: with_pool - before,
    })
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sessions, backends, bytes, bytes_of_pool } = self;
        let (each, of_backend) =
            (*bytes as f64 / *sessions as f64, *bytes_of_pool / *backends as i64);
        writeln!(f, "memory of one gateway: {of_backend} bytes for a backend")?;
        write!(f, "  {sessions} sessions with tokens add {bytes} bytes, {each:.1} for each")
    }
}
