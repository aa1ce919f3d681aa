//! The sessions that a pool has seen as bytes, for the next process.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::Instant;

use super::{BackendState, Backends, Pool};
use crate::{error::ConfigError, util::Reader};

/// What the bytes begin with, with the version of the format.
const MAGIC: &[u8; 8] = b"tssess\0\x01";

impl<S> Backends<S> {
    /// What is known of the sessions of each backend: how many there are, when they were last seen, and when their
    /// streams ended. For a pool of another process: see [`restore_sessions`](Self::restore_sessions).
    pub fn save_sessions(&self) -> Vec<u8> {
        let pool = self.pool();
        pool.update_tick(Instant::now());
        let snapshot = pool.load();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&pool.tick().to_be_bytes());
        for state in snapshot.index().states() {
            let mut saved = Vec::new();
            state.save_sessions(pool.tick(), &mut saved);
            let id = state.id.as_str().as_bytes();
            bytes.push(id.len() as u8);
            bytes.extend_from_slice(id);
            bytes.extend_from_slice(&(saved.len() as u32).to_be_bytes());
            bytes.extend_from_slice(&saved);
        }
        bytes
    }

    /// Continues the counts that [`save_sessions`](Self::save_sessions) has returned, for the backends that the pool
    /// has. `age` is how long ago they were saved. To be called before the first request is served.
    ///
    /// # Errors
    ///
    /// When the bytes are not of this format; then sessions are counted as they are seen.
    pub fn restore_sessions(&self, bytes: &[u8], age: Duration) -> Result<(), ConfigError> {
        restore(self.pool(), bytes, age).ok_or_else(|| {
            ConfigError::new(
                "the saved sessions are not of this version's format, or are cut off; they are counted again as they are \
                 seen",
            )
        })
    }
}

fn restore<S>(pool: &Pool<S>, bytes: &[u8], age: Duration) -> Option<()> {
    let mut bytes = Reader(bytes.strip_prefix(MAGIC)?);
    let tick = bytes.u32()?;
    let passed = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    pool.continue_ticks(tick.saturating_add(passed));
    let snapshot = pool.load();
    while !bytes.0.is_empty() {
        let length = bytes.u8()?;
        let id = bytes.bytes(usize::from(length))?;
        let length = bytes.u32()?;
        let mut saved = Reader(bytes.bytes(length as usize)?);
        if let Some(position) = snapshot.index().position_of(id) {
            snapshot.index().states()[position].restore_sessions(&mut saved, age)?;
        }
    }
    Some(())
}

impl BackendState {
    fn save_sessions(&self, tick: u32, bytes: &mut Vec<u8>) {
        // The next process does not see the end of a stream that is open here.
        self.streams.each_session(|session| {
            self.session_counter.record(Some(session), true, tick);
        });
        bytes.extend_from_slice(&self.counting_since().to_be_bytes());
        self.session_counter.save(bytes);
        let now = Instant::now();
        let mut ends = self.stream_ends.all();
        self.streams.each_session(|session| ends.push((session, now)));
        bytes.extend_from_slice(&(ends.len() as u32).to_be_bytes());
        for (session, end) in ends {
            let since = now.saturating_duration_since(end).as_secs().min(u64::from(u32::MAX));
            bytes.extend_from_slice(&session.to_be_bytes());
            bytes.extend_from_slice(&(since as u32).to_be_bytes());
        }
    }

    fn restore_sessions(&self, bytes: &mut Reader<'_>, age: Duration) -> Option<()> {
        self.count_sessions_since(bytes.u32()?);
        self.session_counter.restore(bytes)?;
        let now = Instant::now();
        for _ in 0..bytes.u32()? {
            let session = bytes.u64()?;
            let since = Duration::from_secs(u64::from(bytes.u32()?)).saturating_add(age);
            if let Some(end) = now.checked_sub(since) {
                self.stream_ends.restore(session, end);
            }
        }
        Some(())
    }
}

impl<S> Pool<S> {
    /// Continues the ticks of another process, which is at `tick` now.
    fn continue_ticks(&self, tick: u32) {
        let own = self.started.elapsed().as_secs() + 1;
        let base = u64::from(tick).saturating_sub(own);
        self.tick_base.store(base.min(u64::from(u32::MAX)) as u32, Relaxed);
        self.update_tick(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pool() -> Backends<()> {
        let backends = Backends::from_iter([("a", ()), ("b", ())]);
        backends.pool().track_external_pins(Some(30 * MINUTE));
        backends
    }

    fn see(backends: &Backends<()>, id: &str, sessions: std::ops::Range<u64>) {
        let pool = backends.pool();
        pool.update_tick(Instant::now());
        let snapshot = pool.load();
        let position = snapshot.index().position_of(id.as_bytes()).unwrap();
        for session in sessions {
            let state = &snapshot.index().states()[position];
            state.session_counter.record(Some(session), true, pool.tick());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_process_knows_the_sessions_at_once() {
        let old = pool();
        see(&old, "a", 1..6);
        advance(20 * MINUTE).await;
        see(&old, "a", 4..8);
        see(&old, "b", 10..13);
        advance(15 * MINUTE).await;
        let counts =
            |backends: &Backends<()>| ["a", "b"].map(|id| backends.get(id).unwrap().sessions);
        assert_eq!(counts(&old), [Some(4), Some(3)]);
        let bytes = old.save_sessions();
        let next = pool();
        assert_eq!(counts(&next), [None, None], "a new process does not know them");
        next.restore_sessions(&bytes, Duration::from_secs(5)).unwrap();
        assert_eq!(counts(&next), [Some(4), Some(3)]);
        see(&next, "b", 11..12);
        advance(16 * MINUTE).await;
        assert_eq!(counts(&next), [Some(0), Some(1)], "the others have expired");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_process_knows_since_when_sessions_are_counted() {
        let old = pool();
        advance(20 * MINUTE).await;
        see(&old, "a", 1..2);
        old.insert("c", ()).unwrap();
        advance(15 * MINUTE).await;
        let counts =
            |backends: &Backends<()>| ["a", "c"].map(|id| backends.get(id).unwrap().sessions);
        assert_eq!(counts(&old), [Some(1), None]);
        let bytes = old.save_sessions();
        let next = pool();
        next.insert("c", ()).unwrap();
        next.restore_sessions(&bytes, Duration::ZERO).unwrap();
        assert_eq!(counts(&next), [Some(1), None], "c may have others that were not seen yet");
        advance(16 * MINUTE).await;
        assert_eq!(counts(&next), [Some(0), Some(0)], "they would have been seen by now");
    }

    #[tokio::test(start_paused = true)]
    async fn other_backends_and_other_bytes_change_nothing() {
        let old = pool();
        see(&old, "a", 1..6);
        let bytes = old.save_sessions();
        let next = Backends::from_iter([("b", ()), ("c", ())]);
        next.restore_sessions(&bytes, Duration::ZERO).unwrap();
        assert_eq!(next.get("b").unwrap().sessions_seen, 0);
        for bad in [&bytes[1..], &bytes[..bytes.len() - 1], b"", b"tssess\0\x02"] {
            assert!(next.restore_sessions(bad, Duration::ZERO).is_err(), "{} bytes", bad.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_process_continues_the_ticks() {
        let old = pool();
        advance(20 * MINUTE).await;
        see(&old, "a", 1..6);
        let bytes = old.save_sessions();
        let next = pool();
        next.restore_sessions(&bytes, Duration::ZERO).unwrap();
        assert_eq!(next.pool().tick(), old.pool().tick());
    }
}
