//! Which fault each backend had, and when.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// How much later than here the end of a fault may be noticed elsewhere.
const MARGIN: Duration = Duration::from_millis(10);

/// The longest pause between two redials or trials of a backend.
const REDIAL_MAX: Duration = Duration::from_secs(1);
/// A margin for slow machines.
const SLOWNESS: Duration = Duration::from_millis(200);

/// The kinds of faults and changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// SIGKILL, and some time later a new process.
    Kill,
    /// SIGTERM, and some time later a new process.
    Term,
    /// SIGSTOP and SIGCONT.
    Pause,
    /// It accepts connections and closes them at once.
    Drop,
    /// It answers everything with 500.
    Fail,
    /// It is removed from the pool for some time.
    Remove,
    /// It keeps its sessions and takes no new ones.
    Drain,
    /// The same, until a deadline.
    DrainUntil,
    Disable,
    /// Other weights, 0 among them.
    Weigh,
}

impl What {
    /// Whether the backend cannot take any request.
    pub fn is_out(self) -> bool {
        !matches!(self, Self::Fail)
    }

    /// Whether requests in flight may fail.
    pub fn breaks(self) -> bool {
        matches!(self, Self::Kill | Self::Term | Self::Drop)
    }

    /// Whether the backend's sessions may leave.
    pub fn moves(self) -> bool {
        self.breaks() || matches!(self, Self::Remove | Self::DrainUntil | Self::Disable)
    }
}

/// A fault that lasted for some time.
#[derive(Debug, Clone, Copy)]
pub struct Spell {
    pub what: What,
    pub backend: usize,
    /// Just before it began.
    pub from: Instant,
    /// When it was over; `None` while it lasts.
    pub to: Option<Instant>,
    /// For how long after the end others may still be preferred.
    pub aftermath: Duration,
}

impl Spell {
    /// Whether it overlaps a period, or ended less than `after` before it.
    pub fn meets(&self, from: Instant, to: Instant, after: Duration) -> bool {
        self.from <= to && self.to.is_none_or(|end| from <= end + MARGIN + after)
    }
}

/// Notes how long each spell may have an effect. A backend that refused or broke connections is looked at
/// again after 100 ms, and then each time after twice as long, up to a second: after as long as it took
/// it is found well. What begins before that goes on with the same pauses: also a process that is stopped,
/// or gets no requests because of its mode, as nothing can be found out about it meanwhile.
fn note_aftermaths(spells: &mut [Spell]) {
    let mut troubles: [Option<(Instant, Instant)>; NAMES.len()] = [None; NAMES.len()];
    for spell in spells.iter_mut() {
        let Some(to) = spell.to else { continue };
        let trouble = &mut troubles[spell.backend];
        let since = trouble.filter(|(_, until)| spell.from <= *until).map(|(since, _)| since);
        let Some(since) = since.or(spell.what.breaks().then_some(spell.from)) else { continue };
        let hides = matches!(spell.what, What::Pause | What::Disable | What::DrainUntil);
        if !(spell.what.breaks() || hides) {
            continue;
        }
        spell.aftermath = (to - since).min(REDIAL_MAX) + SLOWNESS;
        *trouble = Some((since, to + spell.aftermath));
    }
}

/// A drain with a deadline.
#[derive(Debug, Clone, Copy)]
pub struct Drained {
    pub backend: usize,
    pub began: Instant,
    /// From then on it must not serve any request.
    pub deadline: Instant,
    /// Until then.
    pub until: Instant,
}

#[derive(Debug, Default)]
pub struct Timeline {
    spells: Mutex<Vec<Spell>>,
    drained: Mutex<Vec<Drained>>,
    /// From when to when the gateway was restarted.
    gaps: Mutex<Vec<(Instant, Instant)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Timeline {
    /// Records the begin of a fault, and returns its number.
    pub fn begin(&self, backend: usize, what: What) -> usize {
        let mut spells = lock(&self.spells);
        let (from, aftermath) = (Instant::now(), Duration::ZERO);
        spells.push(Spell { what, backend, from, to: None, aftermath });
        spells.len() - 1
    }

    pub fn end(&self, number: usize) {
        lock(&self.spells)[number].to = Some(Instant::now());
    }

    pub fn was_drained(&self, drained: Drained) {
        lock(&self.drained).push(drained);
    }

    pub fn drained(&self) -> Vec<Drained> {
        lock(&self.drained).clone()
    }

    /// Records a restart of the gateway from then until now.
    pub fn gateway_was_gone(&self, from: Instant) {
        lock(&self.gaps).push((from, Instant::now()));
    }

    pub fn spells(&self) -> Vec<Spell> {
        let mut spells = lock(&self.spells).clone();
        note_aftermaths(&mut spells);
        spells
    }

    pub fn gaps(&self) -> Vec<(Instant, Instant)> {
        lock(&self.gaps).clone()
    }

    /// Whether a backend has no fault now.
    pub fn is_well_now(&self, backend: usize) -> bool {
        !lock(&self.spells).iter().any(|spell| spell.backend == backend && spell.to.is_none())
    }
}
