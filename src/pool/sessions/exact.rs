//! Exact counter for small session sets (256 cells).

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use super::window::Window;

const CELLS: usize = 256;
/// How many cells are probed for a session.
const PROBES: usize = 8;

/// An open-addressed table of sessions and the ticks of their last requests. It holds about two hundred
/// sessions; after that it reports that it has overflowed.
#[derive(Debug)]
pub(crate) struct ExactCounter {
    cells: Box<[Cell]>,
    /// The last tick at which there was no cell for a session; 0 for never.
    overflow: AtomicU32,
}

#[derive(Debug, Default)]
struct Cell {
    /// 0 for a free cell.
    session: AtomicU64,
    tick: AtomicU32,
}

/// What has become of a request of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The session was not known yet.
    New,
    Known,
    /// There is no cell for the session.
    NoRoom {
        /// There was one for every session before.
        is_first: bool,
    },
}

impl ExactCounter {
    pub(crate) fn new() -> Self {
        let cells = (0..CELLS).map(|_| Cell::default()).collect();
        Self { cells, overflow: AtomicU32::new(0) }
    }

    /// Records a request of a session with this hash.
    #[inline]
    pub(crate) fn record(&self, session: u64, hash: u64, tick: u32) -> Recorded {
        let Some(cell) = self.cell(session, hash) else {
            let before = self.overflow.load(Relaxed);
            if before < tick {
                self.overflowed(tick);
            }
            return Recorded::NoRoom { is_first: before == 0 };
        };
        let before = cell.tick.load(Relaxed);
        if before != tick {
            cell.tick.store(tick, Relaxed);
        }
        if before == 0 { Recorded::New } else { Recorded::Known }
    }

    pub(crate) fn remove(&self, session: u64, hash: u64) {
        for cell in self.probe(hash) {
            if cell.session.load(Acquire) == session {
                cell.tick.store(0, Relaxed);
            }
        }
    }

    /// The number of sessions within the window; `None` if some did not fit. Frees the cells of sessions
    /// outside the window.
    pub(crate) fn count(&self, window: Window) -> Option<u64> {
        if window.contains(self.overflow.load(Relaxed)) {
            return None;
        }
        let mut count = 0;
        for cell in &self.cells {
            if window.contains(cell.tick.load(Relaxed)) {
                count += 1;
            } else {
                // A request at the same time may be lost; its session is counted with the next one.
                cell.session.store(0, Relaxed);
                cell.tick.store(0, Relaxed);
            }
        }
        Some(count)
    }

    /// Whether a session that has a cell was seen within the window.
    pub(super) fn any(&self, window: Window) -> bool {
        self.cells.iter().any(|cell| window.contains(cell.tick.load(Relaxed)))
    }

    /// The sessions that have a cell, and the ticks of their last requests.
    pub(super) fn sessions(&self) -> impl Iterator<Item = (u64, u32)> {
        let cells = self.cells.iter();
        let cells = cells.map(|cell| (cell.session.load(Acquire), cell.tick.load(Relaxed)));
        cells.filter(|(session, tick)| *session > 0 && *tick > 0)
    }

    /// Appends the last tick without a cell, and the sessions with their ticks.
    pub(super) fn save(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.overflow.load(Relaxed).to_be_bytes());
        let cells: Vec<_> = self.sessions().collect();
        bytes.extend_from_slice(&(cells.len() as u16).to_be_bytes());
        for (session, tick) in cells {
            bytes.extend_from_slice(&session.to_be_bytes());
            bytes.extend_from_slice(&tick.to_be_bytes());
        }
    }

    /// At this tick there was no cell for a session.
    pub(super) fn overflowed(&self, tick: u32) {
        self.overflow.fetch_max(tick, Relaxed);
    }

    /// The session's cell, or a free one that is assigned to it.
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
        for session in 1..=PROBES as u64 {
            assert_eq!(exact.record(session, 7, 1), Recorded::New);
            assert_eq!(exact.record(session, 7, 1), Recorded::Known);
        }
        assert_eq!(exact.count(window(1)), Some(PROBES as u64), "all have the same first cell");
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
}
