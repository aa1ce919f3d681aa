//! [`Scope`]: what the stores know about the current request and its session.

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
    /// The scope of the current request. `None` for a request without a scope inside one that has a scope.
    static CURRENT: Option<Scope>;
}

/// The [`SessionInfo`] of the current request, which the stores of this module use. A handle that is cheap
/// to clone.
///
/// The [`SessionScope`](crate::session_data::SessionScope) layer sets one for each request, in a
/// task-local. A task that a handler spawns has no scope, unless it is passed on with
/// [`within`](Self::within). With the feature `axum` it is an extractor.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use tower_sticky::session_data::Scope;
///
/// /// Spawns work that saves the session after the response.
/// fn spawn_work(work: impl Future<Output = ()> + Send + 'static) {
///     match Scope::current() {
///         Some(scope) => tokio::spawn(scope.within(work)),
///         None => tokio::spawn(work),
///     };
/// }
/// # spawn_work(async {});
/// # });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Scope {
    inner: Arc<Inner>,
}

struct Inner {
    info: SessionInfo,
    /// `None` without an epoch, which is handled like a request without a scope.
    fence: Option<Fence>,
    state: Mutex<ScopeState>,
}

/// What the stores have recorded while they served the request.
#[derive(Default)]
struct ScopeState {
    /// Most often there is one.
    records: Vec<LoadedRecord>,
    /// The last refusal, with the fence of the stored record if it is known.
    refused: Option<(Refused, Option<Fence>)>,
}

/// The versions of a record that the request has loaded.
struct LoadedRecord {
    id: Id,
    /// The first one since the request has last saved the record. A save may be based on this one.
    first: RecordVersion,
    last: RecordVersion,
}

/// The version of a record when it was loaded.
#[derive(Debug, Clone, Default)]
pub(super) struct RecordVersion {
    pub(super) fence: Option<Fence>,
    /// How often the record had been saved. `None` for a local copy.
    pub(super) saves: Option<u64>,
}

/// Allows the use of local copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyUse {
    pub(super) epoch: u64,
    /// Whether an existing copy may be read.
    pub(super) read: bool,
}

impl Scope {
    /// The scope of a request with this information.
    pub fn new(info: SessionInfo) -> Self {
        let borrowed = info.verdict() == Verdict::Borrowed;
        let owner = (!borrowed).then(|| info.backend().clone());
        let fence = info.epoch().map(|epoch| Fence { epoch, owner });
        Self { inner: Arc::new(Inner { info, fence, state: Mutex::default() }) }
    }

    /// The scope of the current request, from the task-local.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok().flatten()
    }

    /// The gateway's information about the session.
    pub fn info(&self) -> &SessionInfo {
        &self.inner.info
    }

    /// Why a store has last refused a save of this request, if one has.
    pub fn refused(&self) -> Option<Refused> {
        self.state().refused.as_ref().map(|(refused, _)| refused.clone())
    }

    /// Runs a future in this scope.
    pub fn within<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        enter(Some(self), future)
    }

    /// Whether a save was refused because the pin of this request is outdated. Further saves will be refused
    /// until the session gets a new pin.
    pub(super) fn has_stale_pin(&self) -> bool {
        let state = self.state();
        let Some((_, stored)) = &state.refused else { return false };
        let loaded = state.records.iter().filter_map(|record| record.last.fence.as_ref());
        stored.iter().chain(loaded).any(|fence| self.is_superseded_by(fence))
    }

    /// Whether the record's fence says that another backend has the session now.
    fn is_superseded_by(&self, stored: &Fence) -> bool {
        let fence = self.inner.fence.as_ref().filter(|fence| fence.owner.is_some());
        fence.is_some_and(|fence| {
            stored.owner != fence.owner && stored.supersedes(fence.epoch, fence.owner.as_ref())
        })
    }

    fn state(&self) -> MutexGuard<'_, ScopeState> {
        lock(&self.inner.state)
    }
}

impl ScopeState {
    fn record(&self, id: &Id) -> Option<&LoadedRecord> {
        self.records.iter().find(|record| record.id == *id)
    }

    fn remove(&mut self, id: &Id) {
        self.records.retain(|record| record.id != *id);
    }
}

/// Runs a future in a scope, or without one.
pub(super) fn enter<F: Future>(
    scope: Option<Scope>,
    future: F,
) -> TaskLocalFuture<Option<Scope>, F> {
    CURRENT.scope(scope, future)
}

/// Calls a function in a scope, or without one.
pub(super) fn enter_sync<T>(scope: Option<Scope>, function: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(scope, function)
}

fn with_current<T>(function: impl FnOnce(&Scope) -> Option<T>) -> Option<T> {
    CURRENT.try_with(|scope| scope.as_ref().and_then(function)).ok().flatten()
}

/// The [effective fence](Fence::effective) of the current request for loading or saving a session.
pub(super) fn fence(id: &Id) -> Option<Fence> {
    with_current(|scope| {
        let state = scope.state();
        let seen = state.record(id).and_then(|record| record.first.fence.as_ref());
        let (epoch, owner) = scope.inner.fence.as_ref()?.effective(seen);
        Some(Fence { epoch, owner: owner.cloned() })
    })
}

/// Records the version of a record that the current request has loaded. `None` if the record is missing.
pub(super) fn record_load(id: &Id, version: Option<RecordVersion>) {
    with_current(|scope| {
        let mut state = scope.state();
        let known = state.records.iter_mut().find(|record| record.id == *id);
        match (known, version) {
            (Some(record), Some(version)) => record.last = version,
            (None, Some(last)) => {
                let first = last.clone();
                state.records.push(LoadedRecord { id: *id, first, last });
            }
            (_, None) => state.remove(id),
        }
        Some(())
    });
}

/// Records the version of a record that the current request has saved.
pub(super) fn record_save(id: &Id, version: RecordVersion) {
    with_current(|scope| {
        scope.state().remove(id);
        Some(())
    });
    record_load(id, Some(version));
}

/// How often the session had been saved when the current request has loaded it.
pub(super) fn saves_at_load(id: &Id) -> Option<u64> {
    with_current(|scope| scope.state().record(id)?.first.saves)
}

/// Whether the epoch of the current request may be wrong although its backend is right. With keyed
/// affinities each gateway counts epochs by itself, and a gateway that has just chosen the backend may have
/// a clock that is late.
pub(super) fn may_contest() -> bool {
    let fresh = [Verdict::Assigned, Verdict::Moved];
    let may_contest = |info: &SessionInfo| info.is_keyed() || fresh.contains(&info.verdict());
    with_current(|scope| Some(may_contest(scope.info()))).unwrap_or(false)
}

/// Records that a save of the current request was refused because of the fence `stored` of the record, and
/// returns the error. The loaded version is removed, so that the request can load the record again.
pub(super) fn refuse(id: &Id, refused: Refused, stored: Option<Fence>) -> session_store::Error {
    with_current(|scope| {
        let mut state = scope.state();
        state.remove(id);
        state.refused = Some((refused.clone(), stored));
        Some(())
    });
    refused.into()
}

/// Whether the current request may use local copies of the session. `None` if this backend does not own the
/// session, or no longer does.
pub(super) fn copy_use(id: &Id) -> Option<CopyUse> {
    with_current(|scope| {
        let state = scope.state();
        let seen = state.record(id).and_then(|record| record.last.fence.as_ref());
        let (epoch, owner) = scope.inner.fence.as_ref()?.effective(seen);
        if owner.is_none() || seen.is_some_and(|seen| seen.supersedes(epoch, owner)) {
            return None;
        }
        let read = scope.inner.info.verdict() == Verdict::Pinned;
        Some(CopyUse { epoch, read })
    })
}

/// Records that the current request has loaded a local copy of this epoch.
pub(super) fn record_copy_load(id: &Id, epoch: u64) {
    let owner = with_current(|scope| scope.inner.fence.as_ref()?.owner.clone());
    record_load(id, Some(RecordVersion { fence: Some(Fence { epoch, owner }), saves: None }));
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("info", &self.inner.info).finish_non_exhaustive()
    }
}
