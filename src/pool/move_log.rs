//! The last moves of sessions in a pool.

use std::{collections::VecDeque, sync::Mutex, time::SystemTime};

use crate::{
    id::{BackendId, SessionHash},
    outcome::Reason,
    util::lock,
};

/// How many moves are remembered.
const CAPACITY: usize = 1000;

/// A session has moved to another backend: see [`Backends::moves`](crate::Backends::moves).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MoveRecord {
    /// When the backend that it has moved to answered.
    pub at: SystemTime,
    /// A keyed hash of the session; `None` for a session without an identifier, as with plain tokens.
    pub session: Option<SessionHash>,
    /// The backend that it has left; `None` when that was no longer in the pool.
    pub from: Option<BackendId>,
    /// The backend that it has moved to.
    pub to: BackendId,
    /// The reason for the move.
    pub reason: Option<Reason>,
}

/// The last 1,000 moves. Only a request that moves its session locks it.
#[derive(Debug, Default)]
pub(super) struct MoveLog(Mutex<VecDeque<MoveRecord>>);

impl MoveLog {
    pub(super) fn push(&self, record: MoveRecord) {
        let mut moves = lock(&self.0);
        if moves.len() == CAPACITY {
            moves.pop_front();
        }
        moves.push_back(record);
    }

    /// The moves, newest first.
    pub(super) fn newest_first(&self) -> Vec<MoveRecord> {
        lock(&self.0).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_thousand_are_remembered() {
        let log = MoveLog::default();
        for n in 0..CAPACITY + 5 {
            let to = BackendId::new(format!("b{n}")).unwrap();
            let at = SystemTime::UNIX_EPOCH;
            log.push(MoveRecord { at, session: None, from: None, to, reason: None });
        }
        let moves = log.newest_first();
        assert_eq!(moves.len(), CAPACITY);
        assert_eq!(moves[0].to.as_str(), "b1004");
        assert_eq!(moves[CAPACITY - 1].to.as_str(), "b5");
    }
}
