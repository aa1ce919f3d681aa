//! Tests of the slots by themselves. In a file of their own: the models build `slots.rs` with locks
//! that work in models only.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
};

use super::limit::{ConcurrencyLimit, HasLimit, Permit, Waiter};

const PLACES: usize = 4096;

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

/// The numbers of those that were woken, in order.
type Woken = Arc<Mutex<Vec<usize>>>;

struct Tell(usize, Woken);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().push(self.0);
    }
}

fn poll(place: &mut Waiter<Backend>, number: usize, woken: &Woken) -> Poll<Permit<Backend>> {
    let waker = Waker::from(Arc::new(Tell(number, woken.clone())));
    place.poll_permit(&mut Context::from_waker(&waker))
}

/// One that waits, with its number.
fn wait(backend: &Arc<Backend>, key: u64, number: usize, woken: &Woken) -> Waiter<Backend> {
    let mut place = Waiter::try_new(backend, key, PLACES).expect("there are places enough");
    assert!(poll(&mut place, number, woken).is_pending(), "no slot is free");
    place
}

/// Gives the slot on as often as somebody waits for it, and tells in which order.
fn serve(held: Permit<Backend>, mut places: Vec<Waiter<Backend>>, woken: &Woken) -> Vec<usize> {
    let mut served = Vec::new();
    let mut held = Some(held);
    while let Some(slot) = held.take() {
        drop(slot);
        let next = std::mem::take(&mut *woken.lock().unwrap());
        assert!(next.len() <= 1, "only the one that is served is woken, not {next:?}");
        if let [number] = next[..] {
            match poll(&mut places[number], number, woken) {
                Poll::Ready(slot) => held = Some(slot),
                Poll::Pending => panic!("{number} was woken for nothing"),
            }
            served.push(number);
        }
    }
    served
}

#[test]
fn one_token_a_thousand_times_does_not_starve_ten_others() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("nobody is there");
    let mut places: Vec<_> = (0..1000).map(|n| wait(&backend, 7, n, &woken)).collect();
    places.extend((1000..1010).map(|n| wait(&backend, n as u64, n, &woken)));
    let served = serve(held, places, &woken);
    assert_eq!(served.len(), 1010, "all are served");
    let others = served[..20].iter().filter(|number| **number >= 1000).count();
    assert_eq!(others, 10, "the others are among the first: {:?}", &served[..20]);
    assert!(served.iter().filter(|n| **n < 1000).is_sorted(), "in the order in which they came");
}

#[test]
fn requests_without_a_key_are_one_group() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("nobody is there");
    let keys = [0, 0, 0, 1, 1, 2];
    let waiters = keys.into_iter().enumerate();
    let places = waiters.map(|(n, key)| wait(&backend, key, n, &woken)).collect();
    assert_eq!(serve(held, places, &woken), [0, 3, 5, 1, 4, 2]);
}

#[test]
fn nobody_overtakes_those_that_wait() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("nobody is there");
    let mut first = wait(&backend, 1, 1, &woken);
    drop(held);
    assert!(Permit::try_acquire(&backend).is_none(), "the slot is promised");
    let mut second = wait(&backend, 2, 2, &woken);
    assert!(poll(&mut second, 2, &woken).is_pending());
    assert!(poll(&mut first, 1, &woken).is_ready());
    assert!(poll(&mut second, 2, &woken).is_ready(), "the first one gave it back");
    assert!(Permit::try_acquire(&backend).is_some());
}

#[test]
fn one_that_leaves_passes_on_what_it_was_given() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend).expect("nobody is there");
    let [gone, given, mut stays] = [1, 2, 3].map(|n| wait(&backend, n as u64, n, &woken));
    drop(gone);
    assert_eq!(backend.0.waiting(), 2, "who leaves gives back its place");
    assert!(woken.lock().unwrap().is_empty());
    drop(held);
    drop(given);
    assert_eq!(*woken.lock().unwrap(), [2, 3], "the second had it, and passed it on");
    let slot = poll(&mut stays, 3, &woken);
    drop(stays);
    assert_eq!(backend.0.waiting(), 0);
    assert!(Permit::try_acquire(&backend).is_none());
    drop(slot);
    assert!(Permit::try_acquire(&backend).is_some());
}

#[test]
fn the_waker_of_the_last_poll_is_woken() {
    let (backend, woken) = (backend(1), Woken::default());
    let held = Permit::try_acquire(&backend);
    let mut place = wait(&backend, 1, 1, &woken);
    assert!(poll(&mut place, 2, &woken).is_pending());
    drop(held);
    assert_eq!(*woken.lock().unwrap(), [2]);
}

#[test]
fn a_limit_changes_in_place() {
    let (backend, woken) = (backend(2), Woken::default());
    let held = [(); 2].map(|()| Permit::try_acquire(&backend).expect("there are two"));
    let mut places = [0, 1, 2, 3].map(|n| wait(&backend, 7, n, &woken));
    backend.0.set_limit(4);
    assert_eq!(*woken.lock().unwrap(), [0, 1], "as many as now fit, beside those in flight");
    backend.0.set_limit(1);
    let more = [0, 1].map(|n| poll(&mut places[n], n, &woken));
    assert!(more.iter().all(Poll::is_ready), "what was given stays given");
    drop(more);
    let [first, last] = held;
    drop(first);
    assert_eq!(*woken.lock().unwrap(), [0, 1], "three of four had to go before");
    drop(last);
    assert_eq!(*woken.lock().unwrap(), [0, 1, 2]);
    backend.0.set_limit(0);
    assert_eq!(*woken.lock().unwrap(), [0, 1, 2, 3], "no limit lets all through");
    assert_eq!(backend.0.limit(), 0);
}

#[test]
fn places_are_counted_whatever_they_wait_for() {
    let (backend, woken) = (backend(1), Woken::default());
    let _held = Permit::try_acquire(&backend);
    // These wait for the service, and not for a slot.
    let ready: Vec<_> = (0..4).map_while(|_| Waiter::try_new(&backend, 7, 4)).collect();
    assert_eq!(ready.len(), 2, "one session gets half of the places");
    let mut place = Waiter::try_new(&backend, 8, 4).expect("another gets one");
    assert!(poll(&mut place, 0, &woken).is_pending());
    assert!(Waiter::try_new(&backend, 8, 4).is_none(), "it has as many as are free");
    let last = Waiter::try_new(&backend, 0, 4).expect("without a key, all may be taken");
    assert!(Waiter::try_new(&backend, 9, 4).is_none(), "all are taken");
    assert_eq!(backend.0.waiting(), 4);
    drop((ready, place, last));
    assert_eq!(backend.0.waiting(), 0);
}
