//! Models of waiting for a permit: every waiter that does not cancel is served.

use crate::support::{backend, check, check_release, join, spawn, spawn_request};

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
    check_release(2, |backend| [7, 7].map(|key| spawn_request(backend, key, 2)));
}

#[test]
fn cancelled_waiter_passes_its_permit_on() {
    check_release(1, |backend| {
        let gives_up = spawn(backend, |backend| backend.poll_and_cancel(1));
        let stays = spawn_request(backend, 2, 1);
        [gives_up, stays]
    });
}

#[test]
fn cancelled_waiter_does_not_cost_its_session_a_turn() {
    check_release(1, |backend| {
        [
            spawn(backend, |backend| backend.poll_and_cancel(7)),
            spawn(backend, |backend| drop(backend.wait(7))),
        ]
    });
}
