//! `StickySession`: a session whose pin the client holds, without a token or a key.

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

/// A client's session: a service that sends all its requests to one backend, whatever they contain. Created
/// by [`StickyService::session`].
///
/// It is for Tonic clients and other programs that are the user themselves. The pin is in this handle.
/// Policy, health, limits and counters are those of the service that created it. The first call chooses a
/// backend, by the strategy or by the rank of the session's name. All later calls go there, and so do
/// parallel first calls. When the backend cannot serve, the session moves like any other. A call that has
/// been sent stays on its backend; the next one follows the pin.
///
/// Clones share the session, which ends when the last clone is dropped.
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
/// let first = session.backend();
/// session.ready().await?.call(Request::new(String::new())).await?;
/// assert_eq!(session.backend(), first);
/// session.end(); // the next call starts a new session
/// # Ok(())
/// # }
/// ```
pub struct StickySession<S, I = NoInner, E = Respond> {
    service: StickyService<S, I, E>,
    held: Arc<HeldPin>,
    /// Counts the handles, without the calls in progress.
    handles: Arc<()>,
}

impl<S, I, E> StickyService<S, I, E> {
    /// A new session that holds its own pin.
    pub fn session(&self) -> StickySession<S, I, E> {
        StickySession::new(self.clone(), HeldPin::new(self.core().ids.next()))
    }

    /// A session with a name, for example that of a user. It starts on the backend that ranks first for the
    /// name. So all programs agree on the backend, also with [`affinity::Key`](crate::affinity::Key) over the
    /// same names if that has no secret.
    pub fn session_named(&self, name: impl Into<String>) -> StickySession<S, I, E> {
        StickySession::new(self.clone(), HeldPin::named(name.into()))
    }
}

impl<S, I, E> StickySession<S, I, E> {
    pub(crate) fn new(service: StickyService<S, I, E>, held: HeldPin) -> Self {
        // Drains must wait for this session, even if the affinity remembers none.
        service.backends().pool().track_sessions(None);
        Self { service, held: Arc::new(held), handles: Arc::new(()) }
    }

    /// The id of the session.
    pub fn id(&self) -> SessionId {
        SessionId::new(self.held.session())
    }

    /// The name of the session, if it has one.
    pub fn name(&self) -> Option<&str> {
        self.held.name()
    }

    /// The backend that the session is pinned to. `None` before the first response, after the session has
    /// ended, and when the backend has left the pool.
    pub fn backend(&self) -> Option<BackendId> {
        let tag = self.held.backend()?;
        let snapshot = self.service.backends().pool().load();
        snapshot.index().get(tag).map(|state| state.id.clone())
    }

    /// The outcome of the last completed call.
    pub fn outcome(&self) -> Option<Outcome> {
        let pool = self.service.backends().pool();
        self.held.outcome(|session| pool.session_hash(session))
    }

    /// Ends the session: the next call starts a new one. Calls in progress finish, and set no pin.
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
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>>,
    S: Clone + Send + Sync + 'static,
    RB: Body<Data = Bytes, Error: Into<BoxError>>,
    I: Service<Request<B>, Response = Response<IB>, Error: Into<BoxError>> + Clone,
    IB: Body<Data = Bytes, Error: Into<BoxError>>,
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

/// The session ends when its last handle is dropped.
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
