//! When the long streams of sessions ended: that counts as the last sight of a session.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::util::lock;

/// So many ends are remembered for a backend, in less than 1 MiB; beyond that the oldest goes first.
const CAPACITY: usize = 16_384;

/// The ends of long streams at one backend, for as long as an idle session is remembered. A page that
/// reloads just after its WebSocket has ended has not been idle, though its token was not seen meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Sights {
    ends: Mutex<Ends>,
    /// Ends that were forgotten before their time.
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Ends {
    by_session: HashMap<u64, Instant>,
    /// In their order; an entry that is not as the map says is outdated.
    order: VecDeque<(u64, Instant)>,
}

impl Sights {
    /// A stream of the session has ended; that matters for as long as `idle`.
    pub(crate) fn ended(&self, session: u64, now: Instant, idle: Duration) {
        let mut ends = lock(&self.ends);
        ends.by_session.insert(session, now);
        ends.order.push_back((session, now));
        while let Some(&(session, then)) = ends.order.front() {
            let is_current = ends.by_session.get(&session) == Some(&then);
            let is_old = now.saturating_duration_since(then) > idle;
            if is_current && !is_old && ends.by_session.len() <= CAPACITY {
                break;
            }
            ends.order.pop_front();
            if is_current {
                ends.by_session.remove(&session);
                self.evicted.fetch_add(u64::from(!is_old), Relaxed);
            }
        }
        if ends.order.len() > 2 * CAPACITY {
            let Ends { by_session, order } = &mut *ends;
            order.retain(|(session, then)| by_session.get(session) == Some(then));
        }
    }

    /// When a stream of the session ended last.
    pub(crate) fn last(&self, session: u64) -> Option<Instant> {
        let ends = lock(&self.ends);
        ends.by_session.get(&session).copied()
    }

    /// How many ends were forgotten before their time.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn the_last_end_is_remembered_for_a_while() {
        let (sights, start) = (Sights::default(), Instant::now());
        assert_eq!(sights.last(7), None);
        sights.ended(7, start, MINUTE);
        sights.ended(7, start + MINUTE / 2, MINUTE);
        sights.ended(8, start + MINUTE + MINUTE / 2, MINUTE);
        assert_eq!(sights.last(7), Some(start + MINUTE / 2));
        sights.ended(8, start + 2 * MINUTE, MINUTE);
        assert_eq!((sights.last(7), sights.last(8)), (None, Some(start + 2 * MINUTE)));
        assert_eq!(sights.evicted(), 0, "it had its time");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_bound_and_the_oldest_goes_first() {
        let (sights, now) = (Sights::default(), Instant::now());
        (0..CAPACITY as u64 + 10).for_each(|session| sights.ended(session, now, MINUTE));
        assert_eq!((sights.last(9), sights.last(10)), (None, Some(now)));
        assert_eq!(sights.evicted(), 10);
        // One session that comes again and again takes no room from others.
        for nanos in 0..3 * CAPACITY as u64 {
            sights.ended(10, now + Duration::from_nanos(nanos), MINUTE);
        }
        assert_eq!((sights.last(11), sights.evicted()), (Some(now), 10));
        assert!(lock(&sights.ends).order.len() <= 2 * CAPACITY);
    }
}
