//! What happens when: the replacement of all backends.

use std::fmt;

/// The size of a simulation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) gateways: u64,
    pub(crate) backends: u64,
    pub(crate) sessions: u64,
    pub(crate) seed: u64,
}

/// How long it lasts, in simulated seconds.
pub(crate) const SECONDS: u64 = 400;
/// The gateways learn of a change up to so many seconds after it.
pub(crate) const LAG: u64 = 30;
/// Steps of a replacement are so many seconds apart, so that every gateway knows of one before the next.
const STEP: u64 = LAG + 10;

/// A change of the pool. A new backend is known everywhere before it gets sessions, and an old one gets no more of
/// them before it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The backend joins, and gets no new sessions yet.
    Join(usize),
    Open(usize),
    Drain(usize),
    Leave(usize),
    /// The process ends, which no gateway is told.
    Stop(usize),
}

/// The changes of each second. The backend `i` is replaced by `backends + i`.
pub(crate) fn replacements(backends: u64) -> Vec<Vec<Change>> {
    let mut changes = vec![Vec::new(); SECONDS as usize];
    let time = SECONDS - 3 * STEP;
    for old in 0..backends {
        let (begin, new) = (old * time / backends, (backends + old) as usize);
        let old = old as usize;
        changes[begin as usize].push(Change::Join(new));
        changes[(begin + STEP) as usize].extend([Change::Open(new), Change::Drain(old)]);
        changes[(begin + 2 * STEP) as usize].push(Change::Leave(old));
        if let Some(last) = changes.get_mut((begin + 3 * STEP) as usize) {
            last.push(Change::Stop(old));
        }
    }
    changes
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateways, backends, sessions, seed } = self;
        write!(
            f,
            "{gateways} gateways, {backends} backends, {sessions} sessions, {SECONDS} s, seed {seed}"
        )
    }
}
