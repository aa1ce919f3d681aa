//! [`Reclaim`]: makes any HTTP client return the request when it could not connect.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use http::{Extensions, HeaderMap, Method, Request, Uri, Version};
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    error::{BoxError, NotSent, Redial, Redialer},
    util::{PolledFrame, lock},
};

/// Turns the connection failures of any HTTP client into [`NotSent`] errors, which contain the whole
/// request, so that it can be sent to another backend.
///
/// `is_connect` says whether an error of the client means that it could not connect. The body is wrapped
/// in a [`ReclaimBody`], which returns it when the client drops it without having polled it. Nothing is
/// copied, a streaming body is not buffered, and the body need be neither `Clone` nor `Sync`. If the body
/// was polled, or the client still holds it, the error of the client is returned unchanged.
///
/// The client consumes the request's head, so the head is cloned for each request: the header map and the
/// extensions are copied, while header values are shared. [`Upstream`](crate::proxy::Upstream) avoids this,
/// because it connects before it uses the request.
///
/// # Example
///
/// The client of `hyper-util` is always ready, and its errors have `is_connect()`:
///
/// ```
/// # mod legacy { // in place of hyper_util::client::legacy
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
    /// Wraps `inner`. `is_connect` returns whether an error means that it could not connect.
    pub fn new(inner: S, is_connect: F) -> Self {
        Self { inner, is_connect, redialer: None }
    }

    /// Sets how to check, without a request, whether the client can connect again; it is part of the
    /// [`NotSent`] errors. Without it, a backend that has refused a connection is tried by one request at
    /// a time. See [`Redial`].
    #[must_use]
    pub fn with_redial(self, redial: impl Redial) -> Self {
        Self { redialer: Some(Redialer::new(redial)), ..self }
    }

    /// The wrapped client.
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
        let slot = Arc::new(BodySlot(Mutex::new(None)));
        let body = ReclaimBody { body: Some(body), slot: Some(slot.clone()) };
        ReclaimFuture {
            future: Some(self.inner.call(Request::from_parts(parts, body))),
            is_connect: self.is_connect.clone(),
            saved: Some((head, slot)),
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
    fn with_body<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }
}

/// Receives the body when it is dropped unpolled.
struct BodySlot<B>(Mutex<Option<B>>);

impl<B> BodySlot<B> {
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
        saved: Option<(Head, Arc<BodySlot<B>>)>,
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
            return Poll::Ready(Err("ReclaimFuture was polled after completion".into()));
        };
        let result = ready!(future.poll(cx));
        // Drops the client's future, which may still hold the body.
        this.future.set(None);
        let saved = this.saved.take();
        let error = match result {
            Ok(response) => return Poll::Ready(Ok(response)),
            Err(error) => error,
        };
        if (this.is_connect)(&error)
            && let Some((head, slot)) = saved
            && let Some(body) = slot.take()
        {
            let not_sent = NotSent::new(head.with_body(body), error);
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

/// A request body that is returned to its [`Reclaim`] when it is dropped unpolled.
pub struct ReclaimBody<B> {
    body: Option<B>,
    /// `None` after the first poll: from then on the body cannot be returned.
    slot: Option<Arc<BodySlot<B>>>,
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

// The body must be `Unpin`, because it is moved back when it was not polled. Others can be boxed.
impl<B: Body + Unpin> Body for ReclaimBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
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

// No field is pinned.
impl<B> Unpin for ReclaimBody<B> {}

impl<B> fmt::Debug for ReclaimBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReclaimBody").field("untouched", &self.slot.is_some()).finish()
    }
}

#[cfg(test)]
mod tests;
