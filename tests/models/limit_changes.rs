//! Models of a limit that changes while requests are in flight and others wait.

use crate::{
    permits::Permit,
    support::{backend, check, join, spawn, spawn_request, spawn_wait},
};

#[test]
fn raised_limit_serves_waiting_requests() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        // They keep their permits, so three must be out at the same time.
        let threads = [1, 2].map(|key| spawn_wait(&backend, key));
        backend.permits.set_limit(3);
        let served = join(threads);
        assert!(Permit::try_acquire(&backend).is_none(), "all three permits are taken");
        drop((held, served));
        backend.assert_idle();
    });
}

#[test]
fn removed_limit_serves_all_waiting_requests() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let threads = [1, 2].map(|key| spawn_wait(&backend, key));
        backend.permits.set_limit(0);
        let served = join(threads);
        backend.permits.set_limit(3);
        assert!(
            Permit::try_acquire(&backend).is_none(),
            "requests that were admitted without a limit continue to count"
        );
        drop((held, served));
        backend.assert_idle();
    });
}

#[test]
fn lowered_limit_applies_after_requests_in_flight_have_finished() {
    check(|| {
        let backend = backend(2);
        let held = [Permit::try_acquire(&backend), Permit::try_acquire(&backend)];
        let threads = [1, 2].map(|key| spawn_request(&backend, key, 1));
        backend.permits.set_limit(1);
        backend.release(held, threads);
    });
}

#[test]
fn limit_may_change_while_permits_are_released_and_waiters_cancel() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let threads = [
            spawn(&backend, |backend| backend.poll_and_cancel(1)),
            spawn_request(&backend, 2, 2),
            spawn(&backend, |backend| backend.permits.set_limit(2)),
        ];
        backend.release(held, threads);
    });
}
