//! What a request knows of its session, for stores under it.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::task::futures::TaskLocalFuture;
use tower_sessions_core::{session::Id, session_store};

use super::{Refused, fence::Fence};
use crate::{outcome::Verdict, session::SessionInfo, util::lock};

tokio::task_local! {
    /// The scope of the request that this task serves. `None` stands for a request without one, so
    /// that it does not take that of another request around it.
    static CURRENT: Option<Scope>;
}

/// What the stores of this module go by while a request is served: its [`SessionInfo`]. A handle that
/// is cheap to clone.
///
/// The [`SessionScope`](crate::session_data::SessionScope) layer makes one for each request. It is a task-local: a
/// task that a handler spawns has none, unless it is carried over with [`within`](Self::within). With
/// feature `axum` it is an extractor.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use tower_sticky::session_data::Scope;
///
/// /// Saves when the answer is out already.
/// fn later(work: impl Future<Output = ()> + Send + 'static) {
///     match Scope::current() {
///         Some(scope) => tokio::spawn(scope.within(work)),
///         None => tokio::spawn(work),
///     };
/// }
/// # later(async {});
/// # });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Scope {
    inner: Arc<Inner>,
}

struct Inner {
    info: SessionInfo,
    /// `None` without an epoch: then it is as if there were no scope.
    fence: Option<Fence>,
    notes: Mutex<ScopeState>,
}

/// What the stores have found out.
#[derive(Default)]
struct ScopeState {
    /// Of each session, most often one, what was found when it was read first since it was last saved,
    /// and when it was read last: a save builds on what may have been read first.
    records: Vec<(Id, RecordVersion, RecordVersion)>,
    /// Why a save was refused, and the fence that was on the record then, if it is known.
    refused: Option<(Refused, Option<Fence>)>,
}

/// What was found on a record when it was read.
#[derive(Debug, Clone, Default)]
pub(super) struct RecordVersion {
    pub(super) fence: Option<Fence>,
    /// How often the record had been saved; `None` when it was a copy.
    pub(super) saves: Option<u64>,
}

/// How far a local copy may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyUse {
    pub(super) epoch: u64,
    /// Whether one that is there may be read.
    pub(super) read: bool,
}

impl Scope {
    /// The scope of a request of which this is known.
    pub fn new(info: SessionInfo) -> Self {
        let borrowed = info.verdict() == Verdict::Borrowed;
        let owner = (!borrowed).then(|| info.backend().clone());
        let fence = info.epoch().map(|epoch| Fence { epoch, owner });
        Self { inner: Arc::new(Inner { info, fence, notes: Mutex::default() }) }
    }

    /// The scope of the request that this task serves.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok().flatten()
    }

    /// What is known of the session.
    pub fn info(&self) -> &SessionInfo {
        &self.inner.info
    }

    /// Why a store has refused to save, if one has while this request was served.
    pub fn refused(&self) -> Option<Refused> {
        self.notes().refused.as_ref().map(|(refused, _)| refused.clone())
    }

    /// Runs a future in this scope.
    pub fn within<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        enter(Some(self), future)
    }

    /// Whether a save was refused because the pin of this request is worth nothing any more: it will be
    /// refused again, until the session gets a new one.
    pub(super) fn has_stale_pin(&self) -> bool {
        let notes = self.notes();
        let Some((_, kept)) = &notes.refused else { return false };
        let seen = notes.records.iter().filter_map(|(_, _, last)| last.fence.as_ref());
        kept.iter().chain(seen).any(|fence| self.is_behind(fence))
    }

    /// Whether another backend has the session by now.
    fn is_behind(&self, seen: &Fence) -> bool {
        let fence = self.inner.fence.as_ref().filter(|fence| fence.owner.is_some());
        fence.is_some_and(|fence| {
            seen.owner != fence.owner && seen.is_past(fence.epoch, fence.owner.as_ref())
        })
    }

    fn notes(&self) -> MutexGuard<'_, ScopeState> {
        lock(&self.inner.notes)
    }
}

impl ScopeState {
    fn record(&self, id: &Id) -> Option<&(Id, RecordVersion, RecordVersion)> {
        self.records.iter().find(|(of, ..)| of == id)
    }

    /// What was found when the session was read first.
    fn first(&self, id: &Id) -> Option<&RecordVersion> {
        self.record(id).map(|(_, first, _)| first)
    }

    /// And last.
    fn last(&self, id: &Id) -> Option<&RecordVersion> {
        self.record(id).map(|(.., last)| last)
    }

    fn forget(&mut self, id: &Id) {
        self.records.retain(|(of, ..)| of != id);
    }
}

/// Runs a future in a scope, or in none.
pub(super) fn enter<F: Future>(
    scope: Option<Scope>,
    future: F,
) -> TaskLocalFuture<Option<Scope>, F> {
    CURRENT.scope(scope, future)
}

/// Calls a function in a scope, or in none.
pub(super) fn enter_sync<T>(scope: Option<Scope>, function: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(scope, function)
}

fn with<T>(look: impl FnOnce(&Scope) -> Option<T>) -> Option<T> {
    CURRENT.try_with(|scope| scope.as_ref().and_then(look)).ok().flatten()
}

/// The [fence](Fence::after) that the current request goes by, for a look at the session `id` or a save
/// of it.
pub(super) fn fence(id: &Id) -> Option<Fence> {
    with(|scope| {
        let notes = scope.notes();
        let seen = notes.first(id).and_then(|seen| seen.fence.as_ref());
        let (epoch, owner) = scope.inner.fence.as_ref()?.after(seen);
        Some(Fence { epoch, owner: owner.cloned() })
    })
}

/// Notes what is on a record that the current request reads; `None`: there is none.
pub(super) fn saw(id: &Id, seen: Option<RecordVersion>) {
    with(|scope| {
        let mut notes = scope.notes();
        let known = notes.records.iter_mut().find(|(of, ..)| of == id);
        match (known, seen) {
            (Some((.., last)), Some(seen)) => *last = seen,
            (None, Some(seen)) => notes.records.push((*id, seen.clone(), seen)),
            (_, None) => notes.forget(id),
        }
        Some(())
    });
}

/// Notes what is on a record since the current request has saved it.
pub(super) fn saved(id: &Id, seen: RecordVersion) {
    with(|scope| {
        scope.notes().forget(id);
        Some(())
    });
    saw(id, Some(seen));
}

/// How often the session had been saved when the current request has read it.
pub(super) fn saves_seen(id: &Id) -> Option<u64> {
    with(|scope| scope.notes().first(id)?.saves)
}

/// Whether the epoch of the current request need not be the right one, though its backend may be: where a
/// key decides each gateway counts epochs by itself, and one that has just chosen the backend may have a
/// clock that is behind.
pub(super) fn may_contest() -> bool {
    let fresh = [Verdict::Assigned, Verdict::Moved];
    let info =
        |scope: &Scope| scope.inner.info.is_keyed() || fresh.contains(&scope.info().verdict());
    with(|scope| Some(info(scope))).unwrap_or(false)
}

/// Notes that the current request was refused, because of the fence `kept` on the record, and makes an
/// error of it. What was read is worth nothing then, and may be read anew.
pub(super) fn refuse(id: &Id, refused: Refused, kept: Option<Fence>) -> session_store::Error {
    with(|scope| {
        let mut notes = scope.notes();
        notes.forget(id);
        notes.refused = Some((refused.clone(), kept));
        Some(())
    });
    refused.into()
}

/// How far the current request may use a local copy of the session; `None`: not at all, because it is
/// not this backend's, or is not any more.
pub(super) fn copies(id: &Id) -> Option<CopyUse> {
    with(|scope| {
        let notes = scope.notes();
        let seen = notes.last(id).and_then(|seen| seen.fence.as_ref());
        let (epoch, owner) = scope.inner.fence.as_ref()?.after(seen);
        if owner.is_none() || seen.is_some_and(|seen| seen.is_past(epoch, owner)) {
            return None;
        }
        let read = scope.inner.info.verdict() == Verdict::Pinned;
        Some(CopyUse { epoch, read })
    })
}

/// Notes that the current request goes by a copy that was made in this epoch, here.
pub(super) fn saw_copy(id: &Id, epoch: u64) {
    let owner = with(|scope| scope.inner.fence.as_ref()?.owner.clone());
    saw(id, Some(RecordVersion { fence: Some(Fence { epoch, owner }), saves: None }));
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("info", &self.inner.info).finish_non_exhaustive()
    }
}
