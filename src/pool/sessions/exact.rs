//! Exact counter for small session sets (256 cells).

use super::window::Window;
use crate::util::sync::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// A power of two.
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

#[derive(Debug)]
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
        Self::with_cells(CELLS)
    }

    /// A table of this many cells, a power of two.
    pub(crate) fn with_cells(count: usize) -> Self {
        let free = |_| Cell { session: AtomicU64::new(0), tick: AtomicU32::new(0) };
        Self { cells: (0..count).map(free).collect(), overflow: AtomicU32::new(0) }
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
        let mut before = cell.tick.load(Relaxed);
        if before != tick {
            // Of requests at the same time one finds the session new.
            before = cell.tick.swap(tick, Relaxed);
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
            if !cell.free_outside(window) {
                count += 1;
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
        let mask = self.cells.len() - 1;
        (0..PROBES).filter_map(move |i| self.cells.get(start.wrapping_add(i) & mask))
    }
}

impl Cell {
    /// Frees the cell unless its session was seen within the window. Returns whether it is free.
    ///
    /// The tick goes first. That of a request at the same time stays, and counts, although its session may
    /// get another cell with the next request.
    fn free_outside(&self, window: Window) -> bool {
        let tick = self.tick.load(Relaxed);
        let frees =
            !window.contains(tick) && self.tick.compare_exchange(tick, 0, Relaxed, Relaxed).is_ok();
        if frees {
            self.session.store(0, Relaxed);
        }
        frees
    }
}
