//! The window of time in which a session must have been seen to count.

/// The last `ticks` ticks up to `now`; sessions seen in them count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The current tick, at least 1.
    pub(crate) now: u32,
    /// The length of the window in ticks.
    pub(crate) ticks: u32,
}

impl Window {
    /// Whether `tick` is in the window; 0, for never, is not.
    pub(crate) fn contains(self, tick: u32) -> bool {
        tick > 0 && self.now.saturating_sub(tick) <= self.ticks
    }
}
