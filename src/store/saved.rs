//! The pins of a [`MemoryStore`] as bytes, for the next process.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    memory::MemoryStore,
    traits::{SessionKey, StoredPin},
};
use crate::error::ConfigError;

/// What the bytes begin with, with the version of the format.
const MAGIC: &[u8; 8] = b"tspins\0\x01";

/// Key, pin, and the seconds since the last request (big-endian, as all numbers).
const RECORD: usize = 16 + StoredPin::LEN + 4;

impl MemoryStore {
    /// All pins with their idle times, for a store of another process: see [`restore`](Self::restore). It takes 40
    /// bytes per session.
    ///
    /// The keys are hashes under the secret of the affinity: a store of another process finds the sessions only when
    /// its affinity has the same [`secret`](crate::affinity::Learned::secret), name and pool.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        let now = Instant::now();
        self.each(|key, pin, last_used| {
            let idle = now.saturating_duration_since(last_used).as_secs();
            bytes.extend_from_slice(&key.to_bytes());
            bytes.extend_from_slice(&pin.to_bytes());
            bytes.extend_from_slice(&u32::try_from(idle).unwrap_or(u32::MAX).to_be_bytes());
        });
        bytes
    }

    /// Adds the pins that [`save`](Self::save) has returned, but for those of sessions that the store has already.
    /// `age` is how long ago they were saved. Returns how many were added.
    ///
    /// # Errors
    ///
    /// When the bytes are not of this format; then nothing is added.
    pub fn restore(&self, bytes: &[u8], age: Duration) -> Result<usize, ConfigError> {
        let records = bytes.strip_prefix(MAGIC).filter(|records| records.len() % RECORD == 0);
        let Some(records) = records else {
            return Err(ConfigError::new(
                "the saved pins are not of this version's format, or are cut off; they are ignored, and the sessions are \
                 learned again",
            ));
        };
        let now = Instant::now();
        let mut added = 0;
        for record in records.chunks_exact(RECORD) {
            let Some((key, pin, idle)) = parse(record) else { continue };
            // On a machine that has just started, a time before its start cannot be expressed. The session lives
            // somewhat longer then.
            let last_used = now.checked_sub(idle.saturating_add(age)).unwrap_or(now);
            added += usize::from(self.insert_if_absent(key, pin, last_used));
        }
        Ok(added)
    }
}

fn parse(record: &[u8]) -> Option<(SessionKey, StoredPin, Duration)> {
    let (key, rest) = record.split_first_chunk::<16>()?;
    let (pin, idle) = rest.split_at_checked(StoredPin::LEN)?;
    let idle = u32::from_be_bytes(idle.try_into().ok()?);
    let pin = StoredPin::from_bytes(pin)?;
    Some((SessionKey::from_bytes(*key), pin, Duration::from_secs(u64::from(idle))))
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::store::{Answer, Lookup, PinStore};

    const IDLE: Duration = Duration::from_secs(100);

    fn key(number: u8) -> SessionKey {
        SessionKey::from_bytes([number; 16])
    }

    fn pin(backend: u64) -> StoredPin {
        StoredPin { backend, epoch: 7, issued: 1_800_000_000 }
    }

    fn found(store: &MemoryStore, number: u8) -> Option<StoredPin> {
        match store.get(key(number), IDLE) {
            Lookup::Now(Answer::Pin(pin, _)) => Some(pin),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_store_goes_on_with_the_pins_and_their_idle_times() {
        advance(Duration::from_secs(1_000)).await;
        let store = MemoryStore::new(100);
        drop(store.put(key(1), pin(1), IDLE));
        advance(Duration::from_secs(60)).await;
        drop(store.put(key(2), pin(2), IDLE));
        let bytes = store.save();
        assert_eq!(bytes.len(), MAGIC.len() + 2 * RECORD);
        let next = MemoryStore::new(100);
        drop(next.put(key(2), pin(9), IDLE));
        assert_eq!(next.restore(&bytes, Duration::from_secs(10)).unwrap(), 1);
        assert_eq!(found(&next, 2), Some(pin(9)), "what the store knows is newer");
        advance(Duration::from_secs(29)).await;
        let other = MemoryStore::new(100);
        other.restore(&next.save(), Duration::ZERO).unwrap();
        assert_eq!(found(&next, 1), Some(pin(1)), "99 seconds");
        advance(Duration::from_secs(1)).await;
        assert_eq!(found(&other, 1), None, "100 seconds");
    }

    #[test]
    fn other_bytes_are_refused() {
        let store = MemoryStore::new(100);
        drop(store.put(key(1), pin(1), IDLE));
        let good = store.save();
        let next = MemoryStore::new(100);
        for bad in [&good[..good.len() - 1], &good[1..], b"", b"tspins\0\x02", &[0; 48]] {
            assert!(next.restore(bad, Duration::ZERO).is_err(), "{} bytes", bad.len());
        }
        assert!(next.is_empty());
        assert_eq!(next.restore(MAGIC, Duration::ZERO).unwrap(), 0);
    }
}
