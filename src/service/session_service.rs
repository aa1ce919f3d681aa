//! A session that a client of ours holds by itself: no token, no key, one backend.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{
    dispatch::HeldPin,
    error::BoxError,
    id::{BackendId, SessionId},
    outcome::Outcome,
    service::{NoInner, OnError, Respond, ResponseFuture, StickyBody, StickyService},
};

/// A client's session with a set of backends: a service that stays on one backend by itself, whatever
/// its requests carry; made by [`StickyService::session`].
///
/// It is what a Tonic client, or any other program that *is* the user, wants: the pin lives in this
/// handle. Policy, health, limits and counters are those of the service that made it. The first call
/// chooses a backend (the strategy does, or the rank of its name), all following go there, parallel ones
/// included, and when the backend cannot serve, the session moves as any other would. A call that has
/// begun stays where it is; the next one follows the pin.
///
/// Clones share the session; it ends with the last of them.
///
/// # Example
///
/// ```
/// use http::{Request, Response};
/// use tower::{Service, ServiceExt};
/// use tower_sticky::{Backends, StickyLayer, affinity::Key};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = |name: &'static str| tower::service_fn(move |_: Request<String>| async move {
/// #     Ok::<_, std::convert::Infallible>(Response::new(String::from(name)))
/// # });
/// let backends = Backends::from_iter([("a", server("a")), ("b", server("b"))]);
/// let sticky = StickyLayer::new(backends, Key::header("x-user-id")).into_service();
///
/// let mut session = sticky.session();
/// session.ready().await?.call(Request::new(String::new())).await?;
/// let home = session.backend();
/// session.ready().await?.call(Request::new(String::new())).await?;
/// assert_eq!(session.backend(), home);
/// session.end(); // the next call begins a new one
/// # Ok(())
/// # }
/// ```
pub struct StickySession<S, I = NoInner, E = Respond> {
    service: StickyService<S, I, E>,
    held: Arc<HeldPin>,
    /// One for each handle; calls under way have none.
    handles: Arc<()>,
}

impl<S, I, E> StickyService<S, I, E> {
    /// A session of its own with these backends, which remembers its pin by itself.
    pub fn session(&self) -> StickySession<S, I, E> {
        StickySession::new(self.clone(), HeldPin::new(self.core().ids.next()))
    }

    /// As [`session`](Self::session), for somebody who has a name, for example a user. It begins on the
    /// backend that ranks first for the name, so that all programs agree on it, and agree with
    /// [`affinity::Key`](crate::affinity::Key) over the same names as long as that has no secret.
    pub fn session_named(&self, name: impl Into<String>) -> StickySession<S, I, E> {
        StickySession::new(self.clone(), HeldPin::named(name.into()))
    }
}

impl<S, I, E> StickySession<S, I, E> {
    pub(crate) fn new(service: StickyService<S, I, E>, held: HeldPin) -> Self {
        // Drains have to wait for it, also where nobody else remembers a session.
        service.backends().pool().track_sessions(None);
        Self { service, held: Arc::new(held), handles: Arc::new(()) }
    }

    /// What identifies it.
    pub fn id(&self) -> SessionId {
        SessionId::new(self.held.session())
    }

    /// The name that it was given.
    pub fn name(&self) -> Option<&str> {
        self.held.name()
    }

    /// The backend that it is pinned to; `None` before the first answer, when it has ended, and when
    /// that backend has left the pool.
    pub fn backend(&self) -> Option<BackendId> {
        let home = self.held.home()?;
        let snapshot = self.service.backends().pool().load();
        snapshot.index().get(home).map(|state| state.id.clone())
    }

    /// What became of the call that was answered last.
    pub fn outcome(&self) -> Option<Outcome> {
        self.held.outcome()
    }

    /// Ends it: the next call begins anew. Calls that are under way finish, and leave no pin.
    pub fn end(&self) {
        let pin = self.held.end();
        let snapshot = self.service.backends().pool().load();
        if let Some(state) = pin.and_then(|pin| snapshot.index().get(pin.backend)) {
            state.session_counter.remove(self.held.session());
        }
    }
}

impl<S, I, E, B, RB, IB> Service<Request<B>> for StickySession<S, I, E>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
    I: Service<Request<B>, Response = Response<IB>> + Clone,
    I::Error: Into<BoxError>,
    IB: Body<Data = Bytes>,
    IB::Error: Into<BoxError>,
    E: OnError,
    B: 'static,
{
    type Response = Response<StickyBody<RB, IB>>;
    type Error = E::Error;
    type Future = ResponseFuture<S, I, E, B>;

    /// Always ready.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), E::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.service.call_for(Some(self.held.clone()), request)
    }
}

/// A session of which nobody has a handle any more has ended.
impl<S, I, E> Drop for StickySession<S, I, E> {
    fn drop(&mut self) {
        if Arc::strong_count(&self.handles) == 1 {
            self.end();
        }
    }
}

impl<S, I, E> Clone for StickySession<S, I, E> {
    fn clone(&self) -> Self {
        Self {
            service: self.service.clone(),
            held: self.held.clone(),
            handles: self.handles.clone(),
        }
    }
}

impl<S, I, E> fmt::Debug for StickySession<S, I, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickySession")
            .field("id", &self.id())
            .field("name", &self.name())
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}
