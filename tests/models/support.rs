//! A backend that consists of its slots, and requests to it.

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

const PLACES: usize = 8;

pub(crate) struct Backend {
    pub(crate) permits: ConcurrencyLimit,
    /// How many are at work. Not loom's: it only watches, and adds no orders to try.
    at_work: AtomicUsize,
}

impl HasLimit for Backend {
    fn permits(&self) -> &ConcurrencyLimit {
        &self.permits
    }
}

/// Tries every order in which the threads of `model` can meet, with at most three switches where a
/// thread could have gone on.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

pub(crate) fn backend(limit: usize) -> Arc<Backend> {
    let backend = Backend { permits: ConcurrencyLimit::new(), at_work: AtomicUsize::new(0) };
    backend.permits.set_limit(limit);
    Arc::new(backend)
}

impl Backend {
    /// Waits for a slot for as long as it takes. One that is never woken shows as a deadlock.
    pub(crate) fn wait(self: &Arc<Self>, key: u64) -> Permit<Self> {
        Permit::try_acquire(self).unwrap_or_else(|| {
            let mut place = Waiter::try_new(self, key, PLACES).expect("there are places enough");
            block_on(poll_fn(|cx| place.poll_permit(cx)))
        })
    }

    /// Asks once, and gives up whatever the answer is: whether it had to wait, or was given a slot
    /// since, which it never takes.
    pub(crate) fn ask_and_give_up(self: &Arc<Self>, key: u64) {
        let mut place = Waiter::try_new(self, key, PLACES).expect("there are places enough");
        let answer = place.poll_permit(&mut Context::from_waker(Waker::noop()));
        // Others may go on before it gives up.
        thread::yield_now();
        drop((place, answer));
    }

    /// Works while no more than `max` do.
    pub(crate) fn work(&self, slot: Permit<Self>, max: usize) {
        let others = self.at_work.fetch_add(1, SeqCst);
        assert!(others < max, "more than {max} slots are out");
        thread::yield_now();
        self.at_work.fetch_sub(1, SeqCst);
        drop(slot);
    }

    /// Nobody is left who holds a slot or a place.
    pub(crate) fn assert_at_rest(self: &Arc<Self>) {
        assert_eq!(self.permits.waiting(), 0, "no place is taken");
        self.permits.set_limit(2);
        let free = [(); 3].map(|()| Permit::try_acquire(self));
        assert!(free[0].is_some() && free[1].is_some(), "no slot is lost");
        assert!(free[2].is_none(), "no slot is free twice");
    }
}

/// Runs `request` for the backend in a thread of its own.
pub(crate) fn spawn<T: 'static>(
    backend: &Arc<Backend>,
    request: impl FnOnce(&Arc<Backend>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let backend = backend.clone();
    thread::spawn(move || request(&backend))
}

/// What the threads return, once all of them have.
pub(crate) fn join<T, const N: usize>(threads: [thread::JoinHandle<T>; N]) -> [T; N] {
    threads.map(|thread| thread.join().expect("no thread fails"))
}
