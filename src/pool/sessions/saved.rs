//! The sessions that a counter has seen as bytes, for the next process.

use std::sync::atomic::Ordering::Relaxed;

use super::{SessionCounter, unconfirmed::Unconfirmed};
use crate::util::Reader;

impl SessionCounter {
    /// Appends what it has counted. Ticks stay as they are: the next process continues them.
    pub(crate) fn save(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.pinned.load(Relaxed).to_be_bytes());
        bytes.extend_from_slice(&self.anonymous.load(Relaxed).to_be_bytes());
        match self.sessions.get() {
            None => bytes.extend_from_slice(&[0; 2 + 4 + 2]),
            Some(sessions) => {
                let marks = sessions.marks.get().map_or(Vec::new(), |marks| marks.used());
                bytes.extend_from_slice(&(marks.len() as u16).to_be_bytes());
                for (index, tick) in marks {
                    bytes.extend_from_slice(&index.to_be_bytes());
                    bytes.extend_from_slice(&tick.to_be_bytes());
                }
                sessions.exact.save(bytes);
            }
        }
        let cells: Vec<_> = self.unconfirmed.get().map_or(Vec::new(), |it| it.cells());
        bytes.push(cells.len() as u8);
        cells.iter().for_each(|cell| bytes.extend_from_slice(&cell.to_be_bytes()));
    }

    /// Reads what [`save`](Self::save) has written, and adds it. `None` when the bytes are cut off or invalid.
    pub(crate) fn restore(&self, bytes: &mut Reader<'_>) -> Option<()> {
        self.pinned.fetch_max(bytes.u32()?, Relaxed);
        self.anonymous.fetch_max(bytes.u32()?, Relaxed);
        let marks = bytes.u16()?;
        for _ in 0..marks {
            let (index, tick) = (bytes.u16()?, bytes.u32()?);
            self.sessions().marks().raise(index, tick)?;
        }
        let overflow = bytes.u32()?;
        if overflow > 0 {
            self.sessions().exact.overflowed(overflow);
        }
        for _ in 0..bytes.u16()? {
            let (session, tick) = (bytes.u64()?, bytes.u32()?);
            self.sessions().restore(session, tick, marks > 0);
        }
        for _ in 0..bytes.u8()? {
            let cell = bytes.u64()?;
            self.unconfirmed.get_or_init(|| Box::new(Unconfirmed::new())).restore(cell);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::sessions::Window;

    #[test]
    fn another_counter_goes_on_with_the_sessions() {
        for sessions in [0, 3, 100, 5_000] {
            let counter = SessionCounter::default();
            for session in 1..=sessions {
                counter.record(Some(session * 7_919), true, 100 + session as u32 % 50);
            }
            counter.token_issued(140);
            let mut bytes = Vec::new();
            counter.save(&mut bytes);
            let next = SessionCounter::default();
            let mut reader = Reader(&bytes);
            assert!(next.restore(&mut reader).is_some());
            assert!(reader.0.is_empty(), "everything is read");
            for (now, ticks) in [(150, 100), (150, 20), (190, 20)] {
                let window = Window { now, ticks };
                assert_eq!(next.count(window), counter.count(window), "{sessions} at {now}");
                assert_eq!(next.is_empty(window), counter.is_empty(window));
                assert_eq!(next.unconfirmed(now), counter.unconfirmed(now));
            }
        }
    }

    #[test]
    fn bytes_that_are_cut_off_are_refused() {
        let counter = SessionCounter::default();
        counter.record(Some(1), true, 1);
        let mut bytes = Vec::new();
        counter.save(&mut bytes);
        for length in 0..bytes.len() {
            let next = SessionCounter::default();
            assert!(next.restore(&mut Reader(&bytes[..length])).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn sessions_that_have_ended_take_no_bytes() {
        let counter = SessionCounter::default();
        let saved = || {
            let mut bytes = Vec::new();
            counter.save(&mut bytes);
            bytes.len()
        };
        let empty = saved();
        for session in 1..=1_000 {
            counter.record(Some(session), true, 1);
        }
        assert!(saved() > 1_000);
        (1..=1_000).for_each(|session| counter.remove(session));
        assert_eq!(saved(), empty);
    }

    #[test]
    fn sessions_that_the_next_counter_has_no_room_for_are_estimated() {
        let (before, next) = (SessionCounter::default(), SessionCounter::default());
        for session in 1..=40 {
            before.record(Some(session * 7_919), true, 100);
        }
        // More than are counted exactly, and all of them have ended long ago.
        for session in 1..=1_000 {
            next.record(Some(session), true, 1);
        }
        let mut bytes = Vec::new();
        before.save(&mut bytes);
        assert!(next.restore(&mut Reader(&bytes)).is_some());
        let count = next.count(Window { now: 100, ticks: 50 }).unwrap();
        assert!(count.abs_diff(40) < 8, "40 sessions were counted as {count}");
    }
}
