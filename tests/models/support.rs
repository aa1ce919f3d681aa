//! A backend that consists of its concurrency limit, and requests to it.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Waker},
};

use loom::{future::block_on, model::Builder, thread};

use crate::permits::{ConcurrencyLimit, HasLimit, Permit, Waiter};

const MAX_WAITING: usize = 8;

pub(crate) struct Backend {
    pub(crate) permits: ConcurrencyLimit,
    /// How many requests are running. Not modelled, as it only observes.
    running: AtomicUsize,
}

impl HasLimit for Backend {
    fn permits(&self) -> &ConcurrencyLimit {
        &self.permits
    }
}

/// Checks all interleavings of the threads of `model` with at most three preemptions.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

pub(crate) fn backend(limit: usize) -> Arc<Backend> {
    let backend = Backend { permits: ConcurrencyLimit::new(), running: AtomicUsize::new(0) };
    backend.permits.set_limit(limit);
    Arc::new(backend)
}

/// A model in which all permits of the backend are taken when `start` starts threads, and are released
/// afterwards. Nothing is left when the threads have finished.
pub(crate) fn check_release<const N: usize>(
    limit: usize,
    start: impl Fn(&Arc<Backend>) -> [thread::JoinHandle<()>; N] + Send + Sync + 'static,
) {
    check(move || {
        let backend = backend(limit);
        let held: Vec<_> = (0..limit).map(|_| Permit::try_acquire(&backend)).collect();
        let threads = start(&backend);
        drop(held);
        join(threads);
        backend.assert_idle();
    });
}

impl Backend {
    /// Waits for a permit. A waiter that is not woken is reported as a deadlock.
    pub(crate) fn wait(self: &Arc<Self>, key: u64) -> Permit<Self> {
        Permit::try_acquire(self).unwrap_or_else(|| {
            let mut waiter = Waiter::try_new(self, key, MAX_WAITING).expect("the quota allows it");
            block_on(poll_fn(|cx| waiter.poll_permit(cx)))
        })
    }

    /// Polls once for a permit, and then cancels, whether it has got the permit, has been granted one in
    /// the meantime, or waits.
    pub(crate) fn poll_and_cancel(self: &Arc<Self>, key: u64) {
        let mut waiter = Waiter::try_new(self, key, MAX_WAITING).expect("the quota allows it");
        let answer = waiter.poll_permit(&mut Context::from_waker(Waker::noop()));
        // Other threads may run before it cancels.
        thread::yield_now();
        drop((waiter, answer));
    }

    /// Runs a request, and checks that no more than `max` are running.
    pub(crate) fn work(&self, permit: Permit<Self>, max: usize) {
        let others = self.running.fetch_add(1, SeqCst);
        assert!(others < max, "more than {max} permits are out");
        thread::yield_now();
        self.running.fetch_sub(1, SeqCst);
        drop(permit);
    }

    /// Checks that no permit is held and no request waits.
    pub(crate) fn assert_idle(self: &Arc<Self>) {
        assert_eq!(self.permits.waiting(), 0, "no request waits");
        self.permits.set_limit(2);
        let free = [(); 3].map(|()| Permit::try_acquire(self));
        assert!(free[0].is_some() && free[1].is_some(), "no permit is lost");
        assert!(free[2].is_none(), "no permit is released twice");
    }
}

/// Runs `request` in a new thread.
pub(crate) fn spawn<T: 'static>(
    backend: &Arc<Backend>,
    request: impl FnOnce(&Arc<Backend>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let backend = backend.clone();
    thread::spawn(move || request(&backend))
}

/// A request in a new thread that waits for a permit, which it returns.
pub(crate) fn spawn_wait(backend: &Arc<Backend>, key: u64) -> thread::JoinHandle<Permit<Backend>> {
    spawn(backend, move |backend| backend.wait(key))
}

/// A request in a new thread: it waits for a permit, and then checks that no more than `max` are running.
pub(crate) fn spawn_request(
    backend: &Arc<Backend>,
    key: u64,
    max: usize,
) -> thread::JoinHandle<()> {
    spawn(backend, move |backend| {
        let permit = backend.wait(key);
        backend.work(permit, max);
    })
}

/// Joins the threads, and returns their results.
pub(crate) fn join<T, const N: usize>(threads: [thread::JoinHandle<T>; N]) -> [T; N] {
    threads.map(|thread| thread.join().expect("no thread panics"))
}
