//! Errors about the connection to a backend, and how to redial it.

use std::{error::Error, fmt, future::Future, io, pin::Pin, sync::Arc};

use tokio::time::Instant;

use super::{config::BoxError, timed_out::TimedOut};

/// Opens a connection to a backend without sending a request on it.
///
/// A backend whose connections were refused is *suspect* until a connection succeeds. The pool redials
/// it in the background: see [`Health::redial`]. A connection counts when a request can be sent on it,
/// after its TLS handshake or its HTTP/2 preface, and should be kept for the next request.
///
/// The backend returns its `Redial` with the error for the failed connection, so that middleware in
/// between passes it on: see [`NotSent::with_redial`](crate::NotSent::with_redial).
/// [`proxy::Upstream`](crate::proxy::Upstream) and [`grpc::GrpcChannel`](crate::grpc::GrpcChannel) do
/// so. A closure is a `Redial`:
///
/// ```
/// # #[derive(Clone)] struct Client;
/// # impl Client { async fn connect(&self) -> std::io::Result<()> { Ok(()) } }
/// use tower_sticky::NotSent;
///
/// fn refused(client: &Client, request: http::Request<String>) -> NotSent<http::Request<String>> {
///     let client = client.clone();
///     NotSent::new(request, "connection refused").with_redial(move || {
///         let client = client.clone();
///         async move { client.connect().await }
///     })
/// }
/// ```
///
/// A backend that cannot be redialed gets one trial request at a time instead.
///
/// [`Health::redial`]: crate::Health::redial
pub trait Redial: Send + Sync + 'static {
    /// Opens one connection. The future is dropped when it takes longer than 10 s.
    ///
    /// An error means that the backend still cannot be reached.
    fn redial(&self) -> impl Future<Output = Result<(), BoxError>> + Send;
}

impl<F, Fut, E> Redial for F
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send,
    E: Into<BoxError>,
{
    async fn redial(&self) -> Result<(), BoxError> {
        self().await.map_err(Into::into)
    }
}

/// A type-erased [`Redial`].
#[derive(Clone)]
pub(crate) struct Redialer(Arc<dyn Erased>);

type RedialFuture<'a> = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send + 'a>>;

trait Erased: Send + Sync {
    fn redial(&self) -> RedialFuture<'_>;
}

impl<R: Redial> Erased for R {
    fn redial(&self) -> RedialFuture<'_> {
        Box::pin(Redial::redial(self))
    }
}

impl Redialer {
    pub(crate) fn new(redial: impl Redial) -> Self {
        Self(Arc::new(redial))
    }

    pub(crate) async fn redial(&self) -> Result<(), BoxError> {
        self.0.redial().await
    }
}

impl fmt::Debug for Redialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redialer")
    }
}

/// An error in the source chain of a backend's error: a connection failed. Says when it was begun and how
/// to redial.
#[derive(Debug)]
pub(crate) struct Unreachable {
    source: BoxError,
    began: Instant,
    redialer: Option<Redialer>,
}

impl Unreachable {
    /// `began`: when the connection was begun.
    pub(crate) fn new(source: BoxError, began: Instant, redialer: Redialer) -> Self {
        Self { source, began, redialer: Some(redialer) }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl Error for Unreachable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// A backend's error for a connection that ended before any byte of an answer, where the request cannot be
/// returned. If it can, see [`Unanswered`](crate::Unanswered), whose source this may be.
#[derive(Debug)]
pub struct Disconnected {
    source: BoxError,
    redialer: Option<Redialer>,
}

impl Disconnected {
    /// An error caused by `source`.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self { source: source.into(), redialer: None }
    }

    /// Adds how to find out, without a request, whether the backend accepts connections.
    #[must_use]
    pub fn with_redial(self, redial: impl Redial) -> Self {
        self.with_redialer(Redialer::new(redial))
    }

    pub(crate) fn with_redialer(self, redialer: Redialer) -> Self {
        Self { redialer: Some(redialer), ..self }
    }
}

impl fmt::Display for Disconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection ended before an answer: {}", self.source)
    }
}

impl Error for Disconnected {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// A connection that was refused or timed out.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// When the connection was begun.
    pub(crate) began: Instant,
    /// How to redial without a request.
    pub(crate) redialer: Option<Redialer>,
    /// The text of the error.
    pub(crate) text: Arc<str>,
}

impl Refusal {
    /// Takes `error` as a refusal, whatever its cause.
    pub(crate) fn of(error: &BoxError) -> Self {
        let unreachable = chain(error.as_ref()).find_map(<dyn Error>::downcast_ref::<Unreachable>);
        Self {
            began: unreachable.map_or_else(Instant::now, |unreachable| unreachable.began),
            redialer: unreachable.and_then(|unreachable| unreachable.redialer.clone()),
            text: error.to_string().into(),
        }
    }

    /// A refusal, if the source chain of `error` has a cause of one.
    pub(crate) fn in_chain(error: &BoxError) -> Option<Self> {
        chain(error.as_ref()).any(is_refusal).then(|| Self::of(error))
    }
}

fn is_refusal(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    error.is::<Unreachable>()
        || error.downcast_ref() == Some(&TimedOut::CONNECT)
        || matches!(kind, Some(ConnectionRefused | HostUnreachable | NetworkUnreachable))
}

/// Whether `error` says that the connection ended before an answer.
pub(crate) fn is_disconnected(error: &BoxError) -> bool {
    chain(error.as_ref()).any(<dyn Error>::is::<Disconnected>)
}

/// The redialer in the source chain of `error`, if any.
pub(crate) fn redialer(error: &BoxError) -> Option<Redialer> {
    chain(error.as_ref()).find_map(|error| {
        let disconnected = error.downcast_ref::<Disconnected>();
        let unreachable = error.downcast_ref::<Unreachable>();
        let redialer = disconnected.and_then(|error| error.redialer.as_ref());
        redialer.or(unreachable.and_then(|error| error.redialer.as_ref())).cloned()
    })
}

/// How many times a request was sent without an answer, in the extensions of a returned request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SendCount(pub(crate) u8);

impl SendCount {
    /// The most times, over all backends.
    pub(crate) const MAX: Self = Self(3);
}

/// `error` and its causes.
pub(crate) fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let next = |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> {
        (*error).source()
    };
    std::iter::successors(Some(error), next)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::error::NotSent;

    #[tokio::test]
    async fn refusal_is_found_in_the_source_chain_with_its_redialer() {
        let dialed = Arc::new(AtomicUsize::new(0));
        let count = dialed.clone();
        let redial = move || {
            let count = count.clone();
            async move {
                count.fetch_add(1, Relaxed);
                Ok::<_, io::Error>(())
            }
        };
        let inner: BoxError = NotSent::new(7_u32, "no").with_redial(redial).into();
        let outer: BoxError = Disconnected::new(inner).into();
        let refusal = Refusal::in_chain(&outer).expect("the refusal is found");
        refusal.redialer.expect("the refusal has a redialer").redial().await.unwrap();
        assert_eq!(dialed.load(Relaxed), 1);
    }

    #[test]
    fn refused_unreachable_and_timed_out_connections_are_refusals() {
        let io = |kind: io::ErrorKind| -> BoxError { io::Error::from(kind).into() };
        for (error, expected) in [
            (io(io::ErrorKind::ConnectionRefused), true),
            (io(io::ErrorKind::HostUnreachable), true),
            (TimedOut::CONNECT.into(), true),
            (TimedOut::new("response head").into(), false),
            (io(io::ErrorKind::ConnectionReset), false),
            ("it answered 500".into(), false),
        ] {
            assert_eq!(Refusal::in_chain(&error).is_some(), expected, "{error}");
        }
    }
}
