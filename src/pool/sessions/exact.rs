//! A few sessions, each by itself.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use super::window::Window;

const CELLS: usize = 256;
/// How many cells a session may look for its place in.
const PROBES: usize = 8;

/// The sessions that were seen, and when, as long as there are no more than some two hundred: counted one
/// by one.
#[derive(Debug)]
pub(crate) struct ExactCounter {
    cells: Box<[Cell]>,
    /// When there was no place for one of them last; 0 for never.
    overflow: AtomicU32,
}

#[derive(Debug, Default)]
struct Cell {
    /// 0 for nobody.
    session: AtomicU64,
    mark: AtomicU32,
}

impl ExactCounter {
    pub(crate) fn new() -> Self {
        let cells = (0..CELLS).map(|_| Cell::default()).collect();
        Self { cells, overflow: AtomicU32::new(0) }
    }

    /// A session with this hash was here. Tells whether it was not known yet.
    #[inline]
    pub(crate) fn record(&self, session: u64, hash: u64, tick: u32) -> bool {
        let mark = match self.cell(session, hash) {
            Some(cell) => &cell.mark,
            None => &self.overflow,
        };
        let before = mark.load(Relaxed);
        if before != tick {
            mark.store(tick, Relaxed);
        }
        before == 0
    }

    pub(crate) fn remove(&self, session: u64, hash: u64) {
        for cell in self.probe(hash) {
            if cell.session.load(Acquire) == session {
                cell.mark.store(0, Relaxed);
            }
        }
    }

    /// How many there are; `None` when there may be more than are known. Places of those who are not
    /// there any more are given to others.
    pub(crate) fn count(&self, window: Window) -> Option<u64> {
        if window.contains(self.overflow.load(Relaxed)) {
            return None;
        }
        let mut count = 0;
        for cell in &self.cells {
            if window.contains(cell.mark.load(Relaxed)) {
                count += 1;
            } else {
                // One that comes at this very moment is counted with its next request.
                cell.session.store(0, Relaxed);
                cell.mark.store(0, Relaxed);
            }
        }
        Some(count)
    }

    /// The session's cell, or a free one that is its own from now on.
    #[inline]
    fn cell(&self, session: u64, hash: u64) -> Option<&Cell> {
        let own = self.probe(hash).find(|cell| cell.session.load(Acquire) == session);
        own.or_else(|| {
            self.probe(hash).find(|cell| {
                match cell.session.compare_exchange(0, session, AcqRel, Acquire) {
                    Ok(_) => true,
                    Err(other) => other == session,
                }
            })
        })
    }

    fn probe(&self, hash: u64) -> impl Iterator<Item = &Cell> {
        let start = hash as usize;
        (0..PROBES).filter_map(move |i| self.cells.get(start.wrapping_add(i) % CELLS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::mix;

    fn window(now: u32) -> Window {
        Window { now, ticks: 10 }
    }

    #[test]
    fn each_is_counted_once_and_leaves_by_itself() {
        let exact = ExactCounter::new();
        for session in 1..=100 {
            exact.record(session, mix(session), 1);
            exact.record(session, mix(session), 2);
        }
        assert_eq!(exact.count(window(2)), Some(100));
        (1..=99).for_each(|session| exact.remove(session, mix(session)));
        assert_eq!(
            exact.count(window(2)),
            Some(1),
            "whoever shared a place with one that has left"
        );
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        let exact = ExactCounter::new();
        for session in 1..=PROBES as u64 {
            assert!(exact.record(session, 7, 1), "it is new");
            assert!(!exact.record(session, 7, 1), "it is known");
        }
        assert_eq!(exact.count(window(1)), Some(PROBES as u64), "they all begin at one cell");
        exact.record(99, 7, 1);
        assert_eq!(exact.count(window(1)), None, "one more is more than are known");
        exact.record(3, 7, 5);
        assert_eq!(exact.count(window(12)), Some(1), "that was long ago, and most are gone");
        exact.record(100, 7, 12);
        assert_eq!(exact.count(window(12)), Some(2), "their places are free again");
        exact.record(3, 7, 13);
        assert_eq!(exact.count(window(13)), Some(2), "who is known keeps its place");
    }
}
