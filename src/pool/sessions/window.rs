//! Which sessions count as there.

/// Which sessions count as there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The tick of now, at least 1.
    pub(crate) now: u32,
    /// How many ticks ago a session may have been seen.
    pub(crate) ticks: u32,
}

impl Window {
    pub(crate) fn contains(self, mark: u32) -> bool {
        mark > 0 && self.now.saturating_sub(mark) <= self.ticks
    }
}
