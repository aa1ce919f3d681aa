//! The fence: which requests may save a session. `fence.lua` implements the same rules in Redis.

use crate::id::BackendId;

use super::Refused;

/// The epoch and owner of a record that was used through a gateway, or of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) epoch: u64,
    /// The backend that owns the session in this epoch. `None` if it was borrowed.
    pub(super) owner: Option<BackendId>,
}

impl Fence {
    /// The epoch and owner that apply to a request with this fence after it has read a record with the
    /// fence `seen`. If that one is of a later epoch, the request continues in the later epoch, because its
    /// save is based on that data, unless another backend owns the session. This happens when two requests
    /// have moved a session at the same time, and with keyed affinities, where each gateway counts epochs
    /// by itself.
    pub(super) fn effective<'a>(&'a self, seen: Option<&'a Fence>) -> (u64, Option<&'a BackendId>) {
        let owner = self.owner.as_ref();
        match seen.filter(|seen| seen.epoch > self.epoch) {
            Some(Fence { epoch, owner: Some(other) }) => match owner {
                Some(owner) if owner != other => (self.epoch, Some(owner)),
                // A request that borrows the session does not become its owner.
                owner => (*epoch, owner),
            },
            Some(Fence { epoch, owner: None }) => (*epoch, None),
            None => (self.epoch, owner),
        }
    }

    /// Whether this fence of a record makes the pin of a request with `epoch` and `owner` invalid: the
    /// session is in a later epoch, or another backend owns it in this epoch.
    pub(super) fn supersedes(&self, epoch: u64, owner: Option<&BackendId>) -> bool {
        let owned_by_other = self.owner.is_some() && self.owner.as_ref() != owner;
        self.epoch > epoch || (self.epoch == epoch && owned_by_other)
    }
}

/// The state of a session id in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredRecord<'a> {
    Missing,
    /// A record, with its fence if it was used through a gateway.
    Live(Option<&'a Fence>),
    /// The record was deleted less than `keep_deleted` ago.
    Deleted,
}

impl<'a> StoredRecord<'a> {
    pub(super) fn fence(self) -> Option<&'a Fence> {
        match self {
            Self::Live(fence) => fence,
            Self::Missing | Self::Deleted => None,
        }
    }
}

/// Conditions besides the fences that decide whether a request may save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SaveConditions {
    /// Requests of the same epoch that borrow the session, and requests without a fence, may save too. They
    /// do not change the fence.
    pub(super) shared: bool,
    /// The epoch of the request may be wrong; see [`may_contest`](super::scope::may_contest).
    pub(super) may_contest: bool,
    /// The request has read the stored data, and the record was not saved since.
    pub(super) unchanged: bool,
}

/// Decides whether a request may save. Returns the fence that the record then has, or why the save is
/// refused.
pub(super) fn save(
    record: StoredRecord<'_>,
    request: Option<&Fence>,
    conditions: SaveConditions,
) -> Result<Option<Fence>, Refused> {
    let stored = match record {
        StoredRecord::Missing | StoredRecord::Live(None) => return Ok(request.cloned()),
        StoredRecord::Deleted => return Err(Refused::Deleted),
        StoredRecord::Live(Some(stored)) => stored,
    };
    let Some(request) = request else {
        return if conditions.shared { Ok(Some(stored.clone())) } else { Err(Refused::Unfenced) };
    };
    if request.epoch > stored.epoch {
        return Ok(Some(request.clone()));
    }
    let is_older = request.epoch < stored.epoch;
    let may_save = match (&stored.owner, &request.owner) {
        _ if is_older => false,
        (Some(owner), Some(backend)) => backend == owner,
        (Some(_), None) => conditions.shared,
        (None, Some(_)) => true,
        // Several backends may borrow the session at the same time.
        (None, None) => conditions.shared || conditions.unchanged,
    };
    if may_save {
        let fence = if stored.owner.is_some() { stored } else { request };
        return Ok(Some(fence.clone()));
    }
    if conditions.may_contest && conditions.unchanged {
        // The gateways disagree about the owner. Without an owner, each save must be based on the stored
        // data until a newer epoch begins.
        return Ok(Some(Fence { epoch: stored.epoch.saturating_add(1), owner: None }));
    }
    Err(match &stored.owner {
        _ if is_older => Refused::Older { epoch: request.epoch, kept: stored.epoch },
        Some(owner) => Refused::Held { owner: owner.clone() },
        None => Refused::Changed,
    })
}

/// The new fence of a record that a request loads, if it changes. The first load in a new epoch raises the
/// fence, so that requests of an older epoch cannot save after it.
pub(super) fn load<'a>(record: StoredRecord<'_>, request: Option<&'a Fence>) -> Option<&'a Fence> {
    let request = request?;
    match record {
        StoredRecord::Missing | StoredRecord::Deleted => None,
        StoredRecord::Live(None) => Some(request),
        StoredRecord::Live(Some(stored)) if request.epoch > stored.epoch => Some(request),
        StoredRecord::Live(Some(stored)) => {
            let unowned = request.epoch == stored.epoch && stored.owner.is_none();
            Some(request).filter(|_| unowned && request.owner.is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: SaveConditions =
        SaveConditions { shared: false, may_contest: false, unchanged: false };
    const UNCHANGED: SaveConditions = SaveConditions { unchanged: true, ..DEFAULT };
    const SHARED: SaveConditions = SaveConditions { shared: true, ..DEFAULT };

    /// Without an owner if `owner` is empty.
    fn fence((epoch, owner): (u64, &str)) -> Fence {
        Fence { epoch, owner: BackendId::new(owner).ok() }
    }

    /// Saves a record that has a fence.
    fn save_on(
        stored: (u64, &str),
        request: (u64, &str),
        conditions: SaveConditions,
    ) -> Result<Option<Fence>, Refused> {
        save(StoredRecord::Live(Some(&fence(stored))), Some(&fence(request)), conditions)
    }

    #[test]
    fn an_older_epoch_is_refused_and_a_newer_one_takes_over() {
        let on = |stored, request| save_on(stored, request, DEFAULT);
        assert_eq!(on((7, "a"), (6, "b")), Err(Refused::Older { epoch: 6, kept: 7 }));
        assert_eq!(on((7, "a"), (6, "a")), Err(Refused::Older { epoch: 6, kept: 7 }));
        assert_eq!(on((7, "a"), (7, "a")), Ok(Some(fence((7, "a")))));
        assert_eq!(on((7, "a"), (8, "b")), Ok(Some(fence((8, "b")))));
    }

    #[test]
    fn the_first_owner_in_an_epoch_wins() {
        let on = |stored, request| save_on(stored, request, DEFAULT);
        let held = Err(Refused::Held { owner: BackendId::new("a").unwrap() });
        assert_eq!(on((7, "a"), (7, "b")), held);
        assert_eq!(on((7, "a"), (7, "")), held, "a request that borrows is refused");
        assert_eq!(on((7, ""), (7, "a")), Ok(Some(fence((7, "a")))), "the owner takes over");
        assert_eq!(on((7, "a"), (8, "")), Ok(Some(fence((8, "")))));
    }

    #[test]
    fn a_borrowed_session_is_saved_only_if_it_was_not_saved_since_it_was_read() {
        let on = |stored, request, conditions| save_on(stored, request, conditions).map(drop);
        assert_eq!(on((7, ""), (7, ""), DEFAULT), Err(Refused::Changed));
        assert_eq!(on((7, ""), (7, ""), UNCHANGED), Ok(()));
        assert_eq!(on((7, ""), (7, ""), SHARED), Ok(()), "the later save wins");
        assert_eq!(on((7, "a"), (7, "a"), DEFAULT), Ok(()), "on the owner the later save wins");
        assert_eq!(on((7, ""), (8, ""), DEFAULT), Ok(()));
        assert_eq!(on((7, ""), (7, "a"), DEFAULT), Ok(()), "the owner may save in its epoch");
    }

    #[test]
    fn a_contested_save_must_be_based_on_the_stored_data() {
        let changed = SaveConditions { may_contest: true, ..DEFAULT };
        let unchanged = SaveConditions { may_contest: true, ..UNCHANGED };
        for request in [(6, "a"), (6, "b"), (6, ""), (7, "b"), (7, "")] {
            let on = |conditions| save_on((7, "a"), request, conditions);
            assert_eq!(on(unchanged), Ok(Some(fence((8, "")))), "{request:?} removes the owner");
            assert!(on(changed).is_err(), "{request:?} is based on older data");
            assert!(on(UNCHANGED).is_err(), "{request:?} has a reliable epoch");
        }
        let by_owner = save_on((7, "a"), (7, "a"), unchanged);
        assert_eq!(by_owner, Ok(Some(fence((7, "a")))), "the owner stays the owner");
        let on_last = |conditions| save_on((u64::MAX, ""), (7, "a"), conditions);
        assert_eq!(on_last(unchanged), Ok(Some(fence((u64::MAX, "")))), "the epoch saturates");
        assert_eq!(on_last(changed), Err(Refused::Older { epoch: 7, kept: u64::MAX }));
    }

    #[test]
    fn a_request_without_a_fence_saves_only_records_without_one() {
        let stored = fence((7, "a"));
        assert_eq!(save(StoredRecord::Missing, None, DEFAULT), Ok(None));
        assert_eq!(save(StoredRecord::Live(None), None, DEFAULT), Ok(None));
        let refused = save(StoredRecord::Live(Some(&stored)), None, DEFAULT);
        assert_eq!(refused, Err(Refused::Unfenced));
        let first = save(StoredRecord::Live(None), Some(&stored), DEFAULT);
        assert_eq!(first, Ok(Some(stored)));
    }

    #[test]
    fn shared_saves_are_refused_only_for_older_epochs_and_other_owners() {
        let stored = fence((7, "a"));
        let on = |request: Option<&Fence>| save(StoredRecord::Live(Some(&stored)), request, SHARED);
        assert_eq!(on(None), Ok(Some(stored.clone())));
        assert_eq!(on(Some(&fence((7, "")))), Ok(Some(stored.clone())));
        assert!(on(Some(&fence((7, "b")))).is_err());
        assert!(on(Some(&fence((6, "")))).is_err());
    }

    #[test]
    fn a_deleted_session_is_never_saved() {
        for request in [None, Some(&fence((1, "a"))), Some(&fence((u64::MAX, "a")))] {
            let contested = SaveConditions { shared: true, may_contest: true, unchanged: true };
            for conditions in [DEFAULT, SHARED, contested] {
                let result = save(StoredRecord::Deleted, request, conditions);
                assert_eq!(result, Err(Refused::Deleted));
            }
            assert_eq!(load(StoredRecord::Deleted, request), None);
            assert_eq!(load(StoredRecord::Missing, request), None);
        }
    }

    #[test]
    fn the_first_load_in_a_new_epoch_raises_the_fence() {
        let raises = |stored: Option<(u64, &str)>, request: (u64, &str)| {
            let stored = stored.map(fence);
            load(StoredRecord::Live(stored.as_ref()), Some(&fence(request))).is_some()
        };
        assert!(raises(None, (7, "a")));
        assert!(raises(Some((6, "b")), (7, "a")));
        assert!(raises(Some((6, "b")), (7, "")), "a request that borrows raises it too");
        assert!(raises(Some((7, "")), (7, "a")), "the owner raises it in the same epoch");
        assert!(!raises(Some((7, "a")), (7, "a")));
        assert!(!raises(Some((7, "a")), (7, "b")));
        assert!(!raises(Some((7, "a")), (7, "")));
        assert!(!raises(Some((7, "")), (7, "")));
        assert!(!raises(Some((8, "")), (7, "a")));
        assert_eq!(load(StoredRecord::Live(Some(&fence((7, "a")))), None), None);
    }
}
