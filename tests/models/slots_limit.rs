//! A limit that changes while requests are in flight and others wait.

use crate::{
    permits::Permit,
    support::{backend, check, join, spawn},
};

#[test]
fn a_raised_limit_serves_those_that_wait() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        // They keep their slots, so that each has one of its own.
        let threads = [1, 2].map(|key| spawn(&backend, move |backend| backend.wait(key)));
        backend.permits.set_limit(3);
        let served = join(threads);
        assert!(Permit::try_acquire(&backend).is_none(), "all three are taken");
        drop((held, served));
        backend.assert_at_rest();
    });
}

#[test]
fn without_a_limit_all_that_wait_are_let_through() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let threads = [1, 2].map(|key| spawn(&backend, move |backend| backend.wait(key)));
        backend.permits.set_limit(0);
        let served = join(threads);
        backend.permits.set_limit(3);
        assert!(
            Permit::try_acquire(&backend).is_none(),
            "those that were let through keep counting"
        );
        drop((held, served));
        backend.assert_at_rest();
    });
}

#[test]
fn a_lowered_limit_holds_once_those_in_flight_are_done() {
    check(|| {
        let backend = backend(2);
        let held = [Permit::try_acquire(&backend), Permit::try_acquire(&backend)];
        let threads = [1, 2].map(|key| {
            spawn(&backend, move |backend| {
                let slot = backend.wait(key);
                backend.work(slot, 1);
            })
        });
        backend.permits.set_limit(1);
        drop(held);
        join(threads);
        backend.assert_at_rest();
    });
}

#[test]
fn a_limit_may_change_while_slots_come_back_and_waiters_give_up() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let threads = [
            spawn(&backend, |backend| backend.ask_and_give_up(1)),
            spawn(&backend, |backend| {
                let slot = backend.wait(2);
                backend.work(slot, 2);
            }),
            spawn(&backend, |backend| backend.permits.set_limit(2)),
        ];
        drop(held);
        join(threads);
        backend.assert_at_rest();
    });
}
