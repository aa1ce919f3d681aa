//! Whoever waits for a slot is served, whatever the others do.

use crate::{
    permits::Permit,
    support::{backend, check, join, spawn},
};

#[test]
fn no_more_slots_are_out_than_there_are_and_all_are_served() {
    check(|| {
        let backend = backend(1);
        let threads = [1, 2].map(|key| {
            spawn(&backend, move |backend| {
                let slot = backend.wait(key);
                backend.work(slot, 1);
            })
        });
        let slot = backend.wait(0);
        backend.work(slot, 1);
        join(threads);
        backend.assert_at_rest();
    });
}

#[test]
fn two_of_one_session_are_served_as_two_sessions_are() {
    check(|| {
        let backend = backend(2);
        let held = [Permit::try_acquire(&backend), Permit::try_acquire(&backend)];
        let threads = [7, 7].map(|key| {
            spawn(&backend, move |backend| {
                let slot = backend.wait(key);
                backend.work(slot, 2);
            })
        });
        drop(held);
        join(threads);
        backend.assert_at_rest();
    });
}

#[test]
fn one_that_gives_up_passes_its_slot_on() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let gives_up = spawn(&backend, |backend| backend.ask_and_give_up(1));
        let stays = spawn(&backend, |backend| {
            let slot = backend.wait(2);
            backend.work(slot, 1);
        });
        drop(held);
        join([gives_up, stays]);
        backend.assert_at_rest();
    });
}

#[test]
fn one_that_gives_up_takes_no_turn_of_its_session_with_it() {
    check(|| {
        let backend = backend(1);
        let held = Permit::try_acquire(&backend);
        let threads = [
            spawn(&backend, |backend| backend.ask_and_give_up(7)),
            spawn(&backend, |backend| drop(backend.wait(7))),
        ];
        drop(held);
        join(threads);
        backend.assert_at_rest();
    });
}
