//! Tests of the exact counter. They stand here, as `tests/models` includes its file.

use super::{
    exact::{ExactCounter, Recorded},
    window::Window,
};
use crate::hash::mix;

/// How many sessions of one hash have a cell.
const PROBES: u64 = 8;

fn window(now: u32) -> Window {
    Window { now, ticks: 10 }
}

#[test]
fn each_session_is_counted_once_and_removed_individually() {
    let exact = ExactCounter::new();
    for session in 1..=100 {
        exact.record(session, mix(session), 1);
        exact.record(session, mix(session), 2);
    }
    assert_eq!(exact.count(window(2)), Some(100));
    (1..=99).for_each(|session| exact.remove(session, mix(session)));
    assert_eq!(exact.count(window(2)), Some(1), "the removal of others does not affect it");
}

#[test]
fn sessions_with_the_same_hash_get_their_own_cells() {
    let exact = ExactCounter::new();
    for session in 1..=PROBES {
        assert_eq!(exact.record(session, 7, 1), Recorded::New);
        assert_eq!(exact.record(session, 7, 1), Recorded::Known);
    }
    assert_eq!(exact.count(window(1)), Some(PROBES), "all have the same first cell");
    assert_eq!(exact.record(99, 7, 1), Recorded::NoRoom { is_first: true });
    assert_eq!(exact.record(98, 7, 1), Recorded::NoRoom { is_first: false });
    assert_eq!(exact.count(window(1)), None, "one more session overflows");
    exact.record(3, 7, 5);
    assert_eq!(exact.count(window(12)), Some(1), "after the window the table counts again");
    exact.record(100, 7, 12);
    assert_eq!(exact.count(window(12)), Some(2), "cells of expired sessions are free");
    exact.record(3, 7, 13);
    assert_eq!(exact.count(window(13)), Some(2), "a known session keeps its cell");
}
