//! Models of the table of a backend's sessions.

use loom::{sync::Arc, thread};

use crate::{
    exact::{ExactCounter, Recorded},
    support::check,
    window::Window,
};

const CELLS: usize = 2;
const HASH: u64 = 0;

fn window(now: u32) -> Window {
    Window { now, ticks: 10 }
}

#[test]
fn sessions_of_one_hash_get_a_cell_each() {
    check(|| {
        let table = Arc::new(ExactCounter::with_cells(CELLS));
        let other = thread::spawn({
            let table = table.clone();
            move || table.record(1, HASH, 1)
        });
        assert_eq!(table.record(2, HASH, 1), Recorded::New);
        assert_eq!(other.join().expect("no thread panics"), Recorded::New);
        assert_eq!(table.count(window(1)), Some(2));
    });
}

#[test]
fn two_requests_of_a_session_get_one_cell() {
    check(|| {
        let table = Arc::new(ExactCounter::with_cells(CELLS));
        let other = thread::spawn({
            let table = table.clone();
            move || table.record(1, HASH, 1)
        });
        let found = [table.record(1, HASH, 1), other.join().expect("no thread panics")];
        let new = found.iter().filter(|found| **found == Recorded::New);
        assert_eq!((new.count(), table.count(window(1))), (1, Some(1)));
    });
}

/// Session 1 has a cell that is too old when `session` is recorded and another thread counts, which frees it.
/// A drain would else miss the session.
fn check_recorded_while_a_cell_is_freed(session: u64) {
    check(move || {
        let table = Arc::new(ExactCounter::with_cells(CELLS));
        table.record(1, HASH, 1);
        let count = thread::spawn({
            let table = table.clone();
            move || table.count(window(20))
        });
        table.record(session, HASH, 20);
        count.join().expect("no thread panics");
        assert_eq!(table.count(window(20)), Some(1));
    });
}

#[test]
fn session_that_returns_while_its_cell_is_freed_is_counted() {
    check_recorded_while_a_cell_is_freed(1);
}

#[test]
fn session_that_gets_a_cell_while_it_is_freed_is_counted() {
    check_recorded_while_a_cell_is_freed(2);
}
