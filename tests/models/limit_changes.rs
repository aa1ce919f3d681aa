//! Models of a limit that changes while requests are in flight and others wait.

use std::sync::Arc;

use crate::{
    permits::Permit,
    support::{Backend, backend, check, check_release, join, spawn, spawn_request, spawn_wait},
};

/// A backend whose only permit is taken, and two requests that wait until it has this limit. Returns all
/// permits.
fn two_are_admitted_by(limit: usize) -> (Arc<Backend>, impl Sized) {
    let backend = backend(1);
    let held = Permit::try_acquire(&backend);
    let threads = [1, 2].map(|key| spawn_wait(&backend, key));
    backend.permits.set_limit(limit);
    let served = join(threads);
    (backend, (held, served))
}

#[test]
fn raised_limit_serves_waiting_requests() {
    check(|| {
        // They keep their permits, so three must be out at the same time.
        let (backend, served) = two_are_admitted_by(3);
        assert!(Permit::try_acquire(&backend).is_none(), "all three permits are taken");
        drop(served);
        backend.assert_idle();
    });
}

#[test]
fn removed_limit_serves_all_waiting_requests() {
    check(|| {
        let (backend, served) = two_are_admitted_by(0);
        backend.permits.set_limit(3);
        assert!(
            Permit::try_acquire(&backend).is_none(),
            "requests that were admitted without a limit continue to count"
        );
        drop(served);
        backend.assert_idle();
    });
}

#[test]
fn lowered_limit_applies_after_requests_in_flight_have_finished() {
    check_release(2, |backend| {
        let threads = [1, 2].map(|key| spawn_request(backend, key, 1));
        backend.permits.set_limit(1);
        threads
    });
}

#[test]
fn limit_may_change_while_permits_are_released_and_waiters_cancel() {
    check_release(1, |backend| {
        [
            spawn(backend, |backend| backend.poll_and_cancel(1)),
            spawn_request(backend, 2, 2),
            spawn(backend, |backend| backend.permits.set_limit(2)),
        ]
    });
}
