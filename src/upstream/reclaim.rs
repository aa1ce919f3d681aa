//! `Reclaim`: makes any HTTP client give a request back when it could not connect.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    error::{BoxError, NotSent, Redial, Redialer},
    util::lock,
};

/// Turns the connection failures of any HTTP client into [`NotSent`] errors, which carry the whole
/// request, so that the next backend can have it.
///
/// `is_connect` says whether an error of the client means that no connection came about. The body
/// travels inside a [`ReclaimBody`], which gives it back when the client drops it without having
/// polled it: nothing is copied, a streaming body needs no buffer, and the body need be neither
/// `Clone` nor `Sync`. When the body *was* polled, or the client still has it, the client's own error
/// is passed on.
///
/// The client takes the request's head apart, so the head is cloned for each request: header values
/// are shared, not copied, but the map and each extension are. [`Upstream`](crate::proxy::Upstream)
/// does better, as it connects before it touches the request.
///
/// # Example
///
/// The client of `hyper-util` is always ready and says `is_connect()`:
///
/// ```
/// # mod legacy { // stands for hyper_util::client::legacy
/// #     #[derive(Debug)] pub struct Error;
/// #     impl Error { pub fn is_connect(&self) -> bool { true } }
/// #     impl std::fmt::Display for Error { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("refused") } }
/// #     impl std::error::Error for Error {}
/// # }
/// use http::{Request, Response};
/// use tower::{ServiceExt, service_fn};
/// use tower_sticky::{NotSent, Reclaim, ReclaimBody};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// // let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
/// # let client = service_fn(|_: Request<ReclaimBody<String>>| async { Err::<Response<()>, _>(legacy::Error) });
/// let backend = Reclaim::new(client, |error: &legacy::Error| error.is_connect());
///
/// let request = Request::post("http://10.0.0.1/cart").body(String::from("sku=1")).unwrap();
/// let error = backend.oneshot(request).await.unwrap_err();
/// let (request, _cause) = error.downcast::<NotSent<Request<String>>>().unwrap().into_parts();
/// assert_eq!(request.unwrap().body(), "sku=1");
/// # });
/// ```
#[derive(Clone)]
pub struct Reclaim<S, F> {
    inner: S,
    is_connect: F,
    redialer: Option<Redialer>,
}

impl<S, F> Reclaim<S, F> {
    /// Wraps `inner`; `is_connect` recognises its connection failures.
    pub fn new(inner: S, is_connect: F) -> Self {
        Self { inner, is_connect, redialer: None }
    }

    /// Says how to find out, without a request, whether the client can connect again; the errors hand it
    /// out: see [`Redial`]. Without it one request at a time tries a backend that has refused.
    #[must_use]
    pub fn with_redial(self, redial: impl Redial) -> Self {
        Self { redialer: Some(Redialer::new(redial)), ..self }
    }

    /// The client.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: fmt::Debug, F> fmt::Debug for Reclaim<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reclaim").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, F, B> Service<Request<B>> for Reclaim<S, F>
where
    S: Service<Request<ReclaimBody<B>>>,
    S::Error: Into<BoxError>,
    F: Fn(&S::Error) -> bool + Clone,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ReclaimFuture<S::Future, F, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let head = Head {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            extensions: parts.extensions.clone(),
        };
        let slot = Arc::new(Slot(Mutex::new(None)));
        let body = ReclaimBody { body: Some(body), slot: Some(slot.clone()) };
        ReclaimFuture {
            future: Some(self.inner.call(Request::from_parts(parts, body))),
            is_connect: self.is_connect.clone(),
            kept: Some((head, slot)),
            redialer: self.redialer.clone(),
        }
    }
}

struct Head {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
}

impl Head {
    fn with<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }
}

/// Where an unpolled body goes when it is dropped.
struct Slot<B>(Mutex<Option<B>>);

impl<B> Slot<B> {
    fn put(&self, body: B) {
        *lock(&self.0) = Some(body);
    }

    fn take(&self) -> Option<B> {
        lock(&self.0).take()
    }
}

pin_project! {
    /// The future of [`Reclaim`].
    pub struct ReclaimFuture<Fut, F, B> {
        #[pin]
        future: Option<Fut>,
        is_connect: F,
        kept: Option<(Head, Arc<Slot<B>>)>,
        redialer: Option<Redialer>,
    }
}

impl<Fut, F, B, R, E> Future for ReclaimFuture<Fut, F, B>
where
    Fut: Future<Output = Result<R, E>>,
    F: Fn(&E) -> bool,
    E: Into<BoxError>,
    B: Send + 'static,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        let result = ready!(future.poll(cx));
        // The client's future may hold the body until it is dropped.
        this.future.set(None);
        let kept = this.kept.take();
        let error = match result {
            Ok(response) => return Poll::Ready(Ok(response)),
            Err(error) => error,
        };
        if (this.is_connect)(&error)
            && let Some((head, slot)) = kept
            && let Some(body) = slot.take()
        {
            let not_sent = NotSent::new(head.with(body), error);
            let not_sent = match this.redialer.take() {
                Some(redialer) => not_sent.with_redialer(redialer),
                None => not_sent,
            };
            return Poll::Ready(Err(not_sent.into()));
        }
        Poll::Ready(Err(error.into()))
    }
}

impl<Fut, F, B> fmt::Debug for ReclaimFuture<Fut, F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimFuture").finish_non_exhaustive()
    }
}

/// A request body that goes back to its [`Reclaim`] when it is dropped unpolled.
pub struct ReclaimBody<B> {
    body: Option<B>,
    /// Gone at the first poll: from then on the body cannot be given back.
    slot: Option<Arc<Slot<B>>>,
}

impl<B> Drop for ReclaimBody<B> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take()
            && let Some(body) = self.body.take()
        {
            slot.put(body);
        }
    }
}

// `Unpin` because an unpolled body has to move back; a body that is not can be boxed.
impl<B: Body + Unpin> Body for ReclaimBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.slot = None;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

// No field is ever pinned.
impl<B> Unpin for ReclaimBody<B> {}

impl<B> fmt::Debug for ReclaimBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimBody").field("untouched", &self.slot.is_some()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, io};

    use bytes::Bytes;
    use http_body_util::BodyExt;
    use tower::{ServiceExt, service_fn};

    use super::*;

    /// A stream of three chunks: neither `Clone` nor `Sync`.
    struct Stream(Cell<u8>);

    impl Body for Stream {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let left = self.0.get();
            self.0.set(left.saturating_sub(1));
            Poll::Ready((left > 0).then(|| Ok(Frame::data(Bytes::from_static(b"chunk ")))))
        }
    }

    fn request() -> Request<Stream> {
        Request::put("http://a/cart?x=1")
            .version(Version::HTTP_2)
            .header("x-one", "1")
            .extension(7_u32)
            .body(Stream(Cell::new(3)))
            .unwrap()
    }

    #[tokio::test]
    async fn a_refused_request_comes_back_whole() {
        let client = service_fn(|request: Request<ReclaimBody<Stream>>| async move {
            drop(request);
            Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        });
        let backend =
            Reclaim::new(client, |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused);
        let error = backend.oneshot(request()).await.unwrap_err();
        let not_sent = error.downcast::<NotSent<Request<Stream>>>().unwrap();
        let (request, source) = not_sent.into_parts();
        let (parts, body) = request.unwrap().into_parts();
        assert!(source.is::<io::Error>());
        assert_eq!(parts.method, Method::PUT);
        assert_eq!(parts.uri, "http://a/cart?x=1");
        assert_eq!(parts.version, Version::HTTP_2);
        assert_eq!(parts.headers["x-one"], "1");
        assert_eq!(parts.extensions.get::<u32>(), Some(&7));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "chunk chunk chunk ");
    }

    #[tokio::test]
    async fn a_started_body_is_not_given_back() {
        let client = service_fn(|mut request: Request<ReclaimBody<Stream>>| async move {
            let _ = request.body_mut().frame().await;
            Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
        });
        let backend = Reclaim::new(client, |_: &io::Error| true);
        let error = backend.oneshot(request()).await.unwrap_err();
        assert!(error.is::<io::Error>(), "the client's own error is passed on");
    }

    #[tokio::test]
    async fn other_failures_are_passed_on() {
        let client = service_fn(|_: Request<ReclaimBody<Stream>>| async move {
            Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe))
        });
        let backend =
            Reclaim::new(client, |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused);
        assert!(backend.oneshot(request()).await.unwrap_err().is::<io::Error>());
    }
}
