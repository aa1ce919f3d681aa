//! Models of waiting for a permit: every waiter that does not cancel is served.

use crate::{
    permits::Permit,
    support::{backend, check, join, spawn, spawn_request},
};

#[test]
fn limit_is_never_exceeded_and_all_waiters_are_served() {
    check(|| {
        let backend = backend(1);
        let threads = [1, 2].map(|key| spawn_request(&backend, key, 1));
        let permit = backend.wait(0);
        backend.work(permit, 1);
        join(threads);
        backend.assert_idle();
    });
}

#[test]
fn two_requests_of_one_session_are_served() {
    check(|| {
        let backend = backend(2);
        let held = [Permit::try_acquire(&backend), Permit::try_acquire(&backend)];
        let threads = [7, 7].map(|key| spawn_request(&backend, key, 2));
        backend.release(held, threads);
    });
}

#[test]
fn cancelled_waiter_passes_its_permit_on() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let gives_up = spawn(&backend, |backend| backend.poll_and_cancel(1));
        let stays = spawn_request(&backend, 2, 1);
        backend.release(held, [gives_up, stays]);
    });
}

#[test]
fn cancelled_waiter_does_not_cost_its_session_a_turn() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let threads = [
            spawn(&backend, |backend| backend.poll_and_cancel(7)),
            spawn(&backend, |backend| drop(backend.wait(7))),
        ];
        backend.release(held, threads);
    });
}
