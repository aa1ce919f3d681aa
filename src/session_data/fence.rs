//! The fence: whose save counts. One place for the rules; the script in Redis follows them.

use crate::id::BackendId;

use super::Refused;

/// What stands on a record that has been used through a gateway, and what a request brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) epoch: u64,
    /// The backend whose session it is in this epoch; nobody in the hands of one who borrowed it.
    pub(super) owner: Option<BackendId>,
}

impl Fence {
    /// The epoch and the owner that a request with this fence goes by when it has found `seen` on the
    /// record: who has read what was written in a later epoch builds on that, so it goes on in that
    /// epoch, unless the session is another backend's by then. Two requests that moved at the same time
    /// both got a pin, and where a key decides each gateway counts epochs by itself.
    pub(super) fn after<'a>(&'a self, seen: Option<&'a Fence>) -> (u64, Option<&'a BackendId>) {
        let owner = self.owner.as_ref();
        match seen.filter(|seen| seen.epoch > self.epoch) {
            Some(Fence { epoch, owner: Some(other) }) => match owner {
                Some(owner) if owner != other => (self.epoch, Some(owner)),
                // One who borrows goes on borrowing.
                owner => (*epoch, owner),
            },
            Some(Fence { epoch, owner: None }) => (*epoch, None),
            None => (self.epoch, owner),
        }
    }

    /// Whether a request that goes by `epoch` and `owner` comes from a pin that is worth nothing any
    /// more: the session has moved on, or somebody else has it in this epoch.
    pub(super) fn is_past(&self, epoch: u64, owner: Option<&BackendId>) -> bool {
        let held = self.owner.is_some() && self.owner.as_ref() != owner;
        self.epoch > epoch || (self.epoch == epoch && held)
    }
}

/// What a store knows of a session's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredRecord<'a> {
    Nothing,
    /// A record, and its fence if it has one.
    Live(Option<&'a Fence>),
    /// It was deleted a while ago.
    Deleted,
}

impl<'a> StoredRecord<'a> {
    pub(super) fn fence(self) -> Option<&'a Fence> {
        match self {
            Self::Live(fence) => fence,
            Self::Nothing | Self::Deleted => None,
        }
    }
}

/// What else decides whether a request may save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SaveConditions {
    /// Those save too who are not the owner and whose request is not older: they leave the fence as it
    /// is.
    pub(super) shared: bool,
    /// Of two epochs none need be the right one.
    pub(super) may_contest: bool,
    /// The request has read what is stored, and nobody has saved it since.
    pub(super) unchanged: bool,
}

/// Who saves: the fence that is on the record afterwards, or why not.
pub(super) fn save(
    kept: StoredRecord<'_>,
    request: Option<&Fence>,
    terms: SaveConditions,
) -> Result<Option<Fence>, Refused> {
    let kept = match kept {
        StoredRecord::Nothing | StoredRecord::Live(None) => return Ok(request.cloned()),
        StoredRecord::Deleted => return Err(Refused::Deleted),
        StoredRecord::Live(Some(kept)) => kept,
    };
    let Some(request) = request else {
        return if terms.shared { Ok(Some(kept.clone())) } else { Err(Refused::Unfenced) };
    };
    if request.epoch > kept.epoch {
        return Ok(Some(request.clone()));
    }
    let is_older = request.epoch < kept.epoch;
    let may = match (&kept.owner, &request.owner) {
        _ if is_older => false,
        (Some(owner), Some(saver)) => saver == owner,
        (Some(_), None) => terms.shared,
        (None, Some(_)) => true,
        // Of several who borrow a session none knows of the others.
        (None, None) => terms.shared || terms.unchanged,
    };
    if may {
        let fence = if kept.owner.is_some() { kept } else { request };
        return Ok(Some(fence.clone()));
    }
    if terms.may_contest && terms.unchanged {
        // The gateways do not agree whose it is. From now on it is nobody's, so that what a save was
        // built on decides, until one of them says a newer epoch.
        return Ok(Some(Fence { epoch: kept.epoch.saturating_add(1), owner: None }));
    }
    Err(match &kept.owner {
        _ if is_older => Refused::Older { epoch: request.epoch, kept: kept.epoch },
        Some(owner) => Refused::Held { owner: owner.clone() },
        None => Refused::Changed,
    })
}

/// Who loads: the fence that is put on the record from now on, if it changes. The first to read in a
/// new epoch raises the fence, so that nothing of an older one is saved behind its back.
pub(super) fn load<'a>(kept: StoredRecord<'_>, request: Option<&'a Fence>) -> Option<&'a Fence> {
    let request = request?;
    match kept {
        StoredRecord::Nothing | StoredRecord::Deleted => None,
        StoredRecord::Live(None) => Some(request),
        StoredRecord::Live(Some(kept)) if request.epoch > kept.epoch => Some(request),
        StoredRecord::Live(Some(kept)) => {
            let unowned = request.epoch == kept.epoch && kept.owner.is_none();
            Some(request).filter(|_| unowned && request.owner.is_some())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: SaveConditions =
        SaveConditions { shared: true, may_contest: false, unchanged: false };

    fn fence(epoch: u64, owner: &str) -> Fence {
        Fence { epoch, owner: BackendId::new(owner).ok() }
    }

    /// Saves on a record with this fence, which is nobody's with an empty owner.
    fn on(kept: (u64, &str), request: (u64, &str)) -> Result<Option<Fence>, Refused> {
        let (kept, request) = (fence(kept.0, kept.1), fence(request.0, request.1));
        save(StoredRecord::Live(Some(&kept)), Some(&request), SaveConditions::default())
    }

    #[test]
    fn an_older_epoch_is_refused_and_a_newer_one_takes_over() {
        assert_eq!(on((7, "a"), (6, "b")), Err(Refused::Older { epoch: 6, kept: 7 }));
        assert_eq!(on((7, "a"), (6, "a")), Err(Refused::Older { epoch: 6, kept: 7 }));
        assert_eq!(on((7, "a"), (7, "a")), Ok(Some(fence(7, "a"))));
        assert_eq!(on((7, "a"), (8, "b")), Ok(Some(fence(8, "b"))));
    }

    #[test]
    fn of_two_owners_in_one_epoch_the_first_wins() {
        let held = Err(Refused::Held { owner: BackendId::new("a").unwrap() });
        assert_eq!(on((7, "a"), (7, "b")), held);
        assert_eq!(on((7, "a"), (7, "")), held, "it was borrowed");
        assert_eq!(on((7, ""), (7, "a")), Ok(Some(fence(7, "a"))), "there it is");
        assert_eq!(on((7, "a"), (8, "")), Ok(Some(fence(8, ""))));
    }

    #[test]
    fn of_several_who_borrow_only_one_saves_what_it_has_read() {
        let on = |kept: (u64, &str), request: (u64, &str), terms| {
            let (kept, request) = (fence(kept.0, kept.1), fence(request.0, request.1));
            save(StoredRecord::Live(Some(&kept)), Some(&request), terms).map(|_| ())
        };
        let (changed, unchanged) = (
            SaveConditions::default(),
            SaveConditions { unchanged: true, ..SaveConditions::default() },
        );
        assert_eq!(on((7, ""), (7, ""), changed), Err(Refused::Changed));
        assert_eq!(on((7, ""), (7, ""), unchanged), Ok(()));
        assert_eq!(on((7, ""), (7, ""), SHARED), Ok(()), "the later save wins");
        assert_eq!(on((7, "a"), (7, "a"), changed), Ok(()), "at one backend too");
        assert_eq!(on((7, ""), (8, ""), changed), Ok(()));
        assert_eq!(on((7, ""), (7, "a"), changed), Ok(()), "it did not read in this epoch");
    }

    #[test]
    fn who_may_contest_must_have_read_what_is_replaced() {
        let changed = SaveConditions { may_contest: true, ..SaveConditions::default() };
        let unchanged = SaveConditions { unchanged: true, ..changed };
        for request in [(6, "a"), (6, "b"), (6, ""), (7, "b"), (7, "")] {
            let (kept, request) = (fence(7, "a"), fence(request.0, request.1));
            let on = |terms| save(StoredRecord::Live(Some(&kept)), Some(&request), terms);
            assert_eq!(on(unchanged), Ok(Some(fence(8, ""))), "{request:?}: nobody's from now on");
            assert!(on(changed).is_err(), "{request:?}");
            assert!(on(SaveConditions { may_contest: false, ..unchanged }).is_err(), "{request:?}");
        }
        let (kept, owner) = (fence(7, "a"), fence(7, "a"));
        let on = save(StoredRecord::Live(Some(&kept)), Some(&owner), unchanged);
        assert_eq!(on, Ok(Some(fence(7, "a"))), "it stays its owner's");
        let nobodys = fence(u64::MAX, "");
        let on = |terms| save(StoredRecord::Live(Some(&nobodys)), Some(&owner), terms);
        assert_eq!(on(unchanged), Ok(Some(nobodys.clone())), "there is no epoch after the last");
        assert_eq!(on(changed), Err(Refused::Older { epoch: 7, kept: u64::MAX }));
    }

    #[test]
    fn who_has_no_fence_saves_only_where_there_is_none() {
        let kept = fence(7, "a");
        assert_eq!(save(StoredRecord::Nothing, None, SaveConditions::default()), Ok(None));
        assert_eq!(save(StoredRecord::Live(None), None, SaveConditions::default()), Ok(None));
        assert_eq!(
            save(StoredRecord::Live(Some(&kept)), None, SaveConditions::default()),
            Err(Refused::Unfenced)
        );
        assert_eq!(
            save(StoredRecord::Live(None), Some(&kept), SaveConditions::default()),
            Ok(Some(kept))
        );
    }

    #[test]
    fn what_is_shared_is_saved_by_all_but_those_of_an_older_epoch() {
        let kept = fence(7, "a");
        let share =
            |request: Option<&Fence>| save(StoredRecord::Live(Some(&kept)), request, SHARED);
        assert_eq!(share(None), Ok(Some(kept.clone())));
        assert_eq!(share(Some(&fence(7, ""))), Ok(Some(kept.clone())));
        assert!(share(Some(&fence(7, "b"))).is_err());
        assert!(share(Some(&fence(6, ""))).is_err());
    }

    #[test]
    fn what_is_deleted_stays_so() {
        for request in [None, Some(&fence(1, "a")), Some(&fence(u64::MAX, "a"))] {
            for terms in [
                SaveConditions::default(),
                SHARED,
                SaveConditions { may_contest: true, unchanged: true, ..SHARED },
            ] {
                assert_eq!(save(StoredRecord::Deleted, request, terms), Err(Refused::Deleted));
            }
            assert_eq!(load(StoredRecord::Deleted, request), None);
            assert_eq!(load(StoredRecord::Nothing, request), None);
        }
    }

    #[test]
    fn the_first_to_read_in_a_new_epoch_raises_the_fence() {
        let raised = |kept: Option<(u64, &str)>, request: (u64, &str)| {
            let kept = kept.map(|kept| fence(kept.0, kept.1));
            load(StoredRecord::Live(kept.as_ref()), Some(&fence(request.0, request.1))).is_some()
        };
        assert!(raised(None, (7, "a")));
        assert!(raised(Some((6, "b")), (7, "a")));
        assert!(raised(Some((6, "b")), (7, "")), "also one who only borrows");
        assert!(raised(Some((7, "")), (7, "a")), "the owner has come");
        assert!(!raised(Some((7, "a")), (7, "a")));
        assert!(!raised(Some((7, "a")), (7, "b")));
        assert!(!raised(Some((7, "a")), (7, "")));
        assert!(!raised(Some((7, "")), (7, "")));
        assert!(!raised(Some((8, "")), (7, "a")));
        assert_eq!(load(StoredRecord::Live(Some(&fence(7, "a"))), None), None);
    }
}
