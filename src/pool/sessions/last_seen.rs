//! `LastSeen`: when sessions last had a stream open.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::util::lock;

/// The most entries that are kept for one backend, in less than 1 MiB. Beyond that the oldest are
/// evicted.
const CAPACITY: usize = 16_384;

/// When the long streams of sessions at one backend ended, kept for the idle timeout. A session whose
/// WebSocket has just ended was not idle, although its token was not seen in the meantime.
#[derive(Debug, Default)]
pub(crate) struct LastSeen {
    entries: Mutex<Entries>,
    /// How many there are, so that nobody has to lock in order to find none.
    count: AtomicUsize,
    /// Entries that were evicted before the idle timeout.
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    by_session: HashMap<u64, Instant>,
    /// In the order of insertion. An entry that differs from the map is outdated.
    order: VecDeque<(u64, Instant)>,
}

impl LastSeen {
    /// Records that a stream of the session has ended, and keeps that for `idle`.
    pub(crate) fn record(&self, session: u64, now: Instant, idle: Duration) {
        let mut entries = lock(&self.entries);
        entries.by_session.insert(session, now);
        entries.order.push_back((session, now));
        while let Some(&(session, then)) = entries.order.front() {
            let is_current = entries.by_session.get(&session) == Some(&then);
            let is_old = now.saturating_duration_since(then) > idle;
            if is_current && !is_old && entries.by_session.len() <= CAPACITY {
                break;
            }
            entries.order.pop_front();
            if is_current {
                entries.by_session.remove(&session);
                self.evicted.fetch_add(u64::from(!is_old), Relaxed);
            }
        }
        if entries.order.len() > 2 * CAPACITY {
            let Entries { by_session, order } = &mut *entries;
            order.retain(|(session, then)| by_session.get(session) == Some(then));
        }
        self.count.store(entries.by_session.len(), Release);
    }

    /// When the last stream of the session ended.
    pub(crate) fn get(&self, session: u64) -> Option<Instant> {
        if self.count.load(Acquire) == 0 {
            return None;
        }
        let entries = lock(&self.entries);
        entries.by_session.get(&session).copied()
    }

    /// All sessions with the times when their streams ended, the oldest first.
    pub(crate) fn all(&self) -> Vec<(u64, Instant)> {
        let entries = lock(&self.entries);
        let is_current =
            |(session, then): &&(u64, Instant)| entries.by_session.get(session) == Some(then);
        entries.order.iter().filter(is_current).copied().collect()
    }

    /// Adds an entry of [`all`](Self::all), in that order.
    pub(crate) fn restore(&self, session: u64, end: Instant) {
        let mut entries = lock(&self.entries);
        entries.by_session.insert(session, end);
        entries.order.push_back((session, end));
        self.count.store(entries.by_session.len(), Release);
    }

    /// How many entries were evicted before the idle timeout.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn end_of_the_last_stream_is_kept_for_the_idle_timeout() {
        let (last_seen, start) = (LastSeen::default(), Instant::now());
        assert_eq!(last_seen.get(7), None);
        last_seen.record(7, start, MINUTE);
        last_seen.record(7, start + MINUTE / 2, MINUTE);
        last_seen.record(8, start + MINUTE + MINUTE / 2, MINUTE);
        assert_eq!(last_seen.get(7), Some(start + MINUTE / 2));
        last_seen.record(8, start + 2 * MINUTE, MINUTE);
        assert_eq!((last_seen.get(7), last_seen.get(8)), (None, Some(start + 2 * MINUTE)));
        assert_eq!(last_seen.evicted(), 0, "the entry expired and was not evicted");
    }

    #[tokio::test(start_paused = true)]
    async fn oldest_entries_are_evicted_at_capacity() {
        let (last_seen, now) = (LastSeen::default(), Instant::now());
        (0..CAPACITY as u64 + 10).for_each(|session| last_seen.record(session, now, MINUTE));
        assert_eq!((last_seen.get(9), last_seen.get(10)), (None, Some(now)));
        assert_eq!(last_seen.evicted(), 10);
        // Many streams of one session do not evict others.
        for nanos in 0..3 * CAPACITY as u64 {
            last_seen.record(10, now + Duration::from_nanos(nanos), MINUTE);
        }
        assert_eq!((last_seen.get(11), last_seen.evicted()), (Some(now), 10));
        assert!(lock(&last_seen.entries).order.len() <= 2 * CAPACITY);
        assert_eq!(last_seen.all().len(), CAPACITY);
    }

    #[tokio::test(start_paused = true)]
    async fn current_entries_are_restored_in_their_order() {
        let (last_seen, start) = (LastSeen::default(), Instant::now());
        last_seen.record(7, start, MINUTE);
        last_seen.record(8, start + MINUTE / 4, MINUTE);
        last_seen.record(7, start + MINUTE / 2, MINUTE);
        let all = [(8, start + MINUTE / 4), (7, start + MINUTE / 2)];
        assert_eq!(last_seen.all(), all);
        let restored = LastSeen::default();
        for (session, end) in all {
            restored.restore(session, end);
        }
        assert_eq!(restored.all(), all);
        assert_eq!((restored.get(7), restored.get(8)), (Some(all[1].1), Some(all[0].1)));
    }
}
