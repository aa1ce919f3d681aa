//! Unit tests of `limit`. Not in its files, as the models build those with locks of loom, which work
//! only in models.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use super::limit::{ConcurrencyLimit, HasLimit, Permit, Waiter};

const MAX_WAITING: usize = 4096;

struct Backend(ConcurrencyLimit);

impl HasLimit for Backend {
    fn permits(&self) -> &ConcurrencyLimit {
        &self.0
    }
}

fn backend(limit: usize) -> Arc<Backend> {
    let backend = Backend(ConcurrencyLimit::new());
    backend.0.set_limit(limit);
    Arc::new(backend)
}

/// The numbers of the waiters that were woken, in order.
type Woken = Arc<Mutex<Vec<usize>>>;

struct RecordWake(usize, Woken);

impl Wake for RecordWake {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

fn poll(waiter: &mut Waiter<Backend>, number: usize, woken: &Woken) -> Poll<Permit<Backend>> {
    let waker = Waker::from(Arc::new(RecordWake(number, woken.clone())));
    waiter.poll_permit(&mut Context::from_waker(&waker))
}

/// A waiter with a number, which waits for a permit.
fn wait(backend: &Arc<Backend>, key: u64, number: usize, woken: &Woken) -> Waiter<Backend> {
    let mut waiter = Waiter::try_new(backend, key, MAX_WAITING).expect("the quota allows it");
    assert!(poll(&mut waiter, number, woken).is_pending(), "no permit is free");
    waiter
}

/// Passes the permit on until no request waits, and returns the order.
fn serve(held: Permit<Backend>, mut waiters: Vec<Waiter<Backend>>, woken: &Woken) -> Vec<usize> {
    let mut served = Vec::new();
    let mut held = Some(held);
    while let Some(permit) = held.take() {
        drop(permit);
        let next = std::mem::take(&mut *woken.lock().unwrap());
        assert!(next.len() <= 1, "only the waiter that gets the permit is woken, not {next:?}");
        if let [number] = next[..] {
            match poll(&mut waiters[number], number, woken) {
                Poll::Ready(permit) => held = Some(permit),
                Poll::Pending => panic!("{number} was woken without a permit"),
            }
            served.push(number);
        }
    }
    served
}

#[test]
fn thousand_requests_of_one_session_do_not_starve_ten_others() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("a permit is free");
    let mut waiters: Vec<_> = (0..1000).map(|n| wait(&backend, 7, n, &woken)).collect();
    waiters.extend((1000..1010).map(|n| wait(&backend, n as u64, n, &woken)));
    let served = serve(held, waiters, &woken);
    assert_eq!(served.len(), 1010, "all waiters are served");
    let others = served[..20].iter().filter(|number| **number >= 1000).count();
    assert_eq!(others, 10, "the others are served first: {:?}", &served[..20]);
    assert!(
        served.iter().filter(|n| **n < 1000).is_sorted(),
        "requests of one session are served in order"
    );
}

#[test]
fn requests_without_a_key_share_one_turn() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("a permit is free");
    let keys = [0, 0, 0, 1, 1, 2];
    let waiters = keys.into_iter().enumerate();
    let waiters = waiters.map(|(n, key)| wait(&backend, key, n, &woken)).collect();
    assert_eq!(serve(held, waiters, &woken), [0, 3, 5, 1, 4, 2]);
}

#[test]
fn new_request_does_not_overtake_waiters() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("a permit is free");
    let mut first = wait(&backend, 1, 1, &woken);
    drop(held);
    assert!(Permit::try_acquire(&backend).is_none(), "the permit was granted to the waiter");
    let mut second = wait(&backend, 2, 2, &woken);
    assert!(poll(&mut second, 2, &woken).is_pending());
    assert!(poll(&mut first, 1, &woken).is_ready());
    assert!(poll(&mut second, 2, &woken).is_ready(), "the first one was released");
    assert!(Permit::try_acquire(&backend).is_some());
}

#[test]
fn dropped_waiter_passes_its_permit_on() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("a permit is free");
    let [gone, given, mut stays] = [1, 2, 3].map(|n| wait(&backend, n as u64, n, &woken));
    drop(gone);
    assert_eq!(backend.0.waiting(), 2, "a dropped waiter releases its place");
    assert!(woken.lock().unwrap().is_empty());
    drop(held);
    drop(given);
    assert_eq!(
        *woken.lock().unwrap(),
        [2, 3],
        "the second was granted the permit and passed it on"
    );
    let permit = poll(&mut stays, 3, &woken);
    drop(stays);
    assert_eq!(backend.0.waiting(), 0);
    assert!(Permit::try_acquire(&backend).is_none());
    drop(permit);
    assert!(Permit::try_acquire(&backend).is_some());
}

#[test]
fn the_waker_of_the_last_poll_is_woken() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend);
    let mut waiter = wait(&backend, 1, 1, &woken);
    assert!(poll(&mut waiter, 2, &woken).is_pending());
    drop(held);
    assert_eq!(*woken.lock().unwrap(), [2]);
}

#[test]
fn limit_changes_while_permits_are_held() {
    let (backend, woken) = (backend(2), Woken::default());
    let held = [(); 2].map(|()| Permit::try_acquire(&backend).expect("two permits are free"));
    let mut waiters = [0, 1, 2, 3].map(|n| wait(&backend, 7, n, &woken));
    backend.0.set_limit(4);
    assert_eq!(*woken.lock().unwrap(), [0, 1], "as many as the new limit allows");
    backend.0.set_limit(1);
    let more = [0, 1].map(|n| poll(&mut waiters[n], n, &woken));
    assert!(more.iter().all(Poll::is_ready), "permits that were granted stay valid");
    drop(more);
    let [first, last] = held;
    drop(first);
    assert_eq!(*woken.lock().unwrap(), [0, 1], "three of four permits are still held");
    drop(last);
    assert_eq!(*woken.lock().unwrap(), [0, 1, 2]);
    backend.0.set_limit(0);
    assert_eq!(*woken.lock().unwrap(), [0, 1, 2, 3], "without a limit all waiters are served");
    assert_eq!(backend.0.limit(), 0);
}

#[test]
fn waiters_for_readiness_count_in_the_quota() {
    let (backend, woken) = (backend(1), Woken::default());
    let _held = Permit::try_acquire(&backend);
    // These wait for the service to become ready, not for a permit.
    let ready: Vec<_> = (0..4).map_while(|_| Waiter::try_new(&backend, 7, 4)).collect();
    assert_eq!(ready.len(), 2, "one session gets half of the places");
    let mut waiter = Waiter::try_new(&backend, 8, 4).expect("another session gets a place");
    assert!(poll(&mut waiter, 0, &woken).is_pending());
    assert!(
        Waiter::try_new(&backend, 8, 4).is_none(),
        "the session has as many places as are free"
    );
    let last = Waiter::try_new(&backend, 0, 4).expect("requests without a key get the last place");
    assert!(Waiter::try_new(&backend, 9, 4).is_none(), "all places are taken");
    assert_eq!(backend.0.waiting(), 4);
    drop((ready, waiter, last));
    assert_eq!(backend.0.waiting(), 0);
}
