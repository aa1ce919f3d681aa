//! [`GrpcChannel`]: a Tonic channel that returns calls that it could not send, and that replaces a
//! channel whose worker has ended.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::Body;
use pin_project_lite::pin_project;
use tonic::{
    ConnectError,
    body::Body as TonicBody,
    transport::{self, Channel, Endpoint},
};
use tower_service::Service;

use crate::{
    error::{BoxError, ConfigError, NotSent, Redial, chain},
    upstream::{Reclaim, ReclaimFuture},
};

/// The time to connect for endpoints without a `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A gRPC backend: a `tonic::transport::Channel` with the behaviour that a backend needs.
///
/// - It connects with the first call, and again after the connection was lost.
/// - A call of which nothing was sent is returned as [`NotSent`], with its messages, and
///   fails over to another backend. This is the case if no connection could be made, or if the connection
///   was closed while the call was queued. After a closed connection, the call is first tried on a new one.
///   No other call is repeated.
/// - It supports [`Redial`], so the backend is available again as soon as its server is.
/// - If the channel's worker has ended, for example with the runtime that it ran on, the next call builds
///   another channel.
/// - The time to connect is limited by the endpoint's `connect_timeout`; default 1 s.
/// - It accepts requests with any body, so it works behind Axum and hyper as well as behind a Tonic client.
///   It does not change headers as a reverse proxy does; for that see
///   [`Upstream`](crate::proxy::Upstream), which supports gRPC too.
///
/// It is a handle; clones share the channel. Compared to a plain `Channel` it clones the head of each
/// request, as described at [`Reclaim`].
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tonic::transport::Endpoint;
/// use tower_sticky::grpc::GrpcChannel;
///
/// let backend = GrpcChannel::new("http://10.0.0.1:50051")?;
///
/// let endpoint = Endpoint::from_static("http://10.0.0.2:50051")
///     .connect_timeout(Duration::from_millis(500))
///     .http2_keep_alive_interval(Duration::from_secs(10));
/// let other = GrpcChannel::from(endpoint);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
pub struct GrpcChannel {
    shared: Arc<Shared>,
    /// The clone of the channel that was polled ready, and the shared channel that it was cloned from.
    ready: Option<(Arc<Channel>, Channel)>,
}

struct Shared {
    endpoint: Endpoint,
    /// Built with the first call, because its worker needs a runtime.
    current: ArcSwapOption<Channel>,
}

impl GrpcChannel {
    /// A channel to the server at `url`, which has the form `http://host:port`. For TLS and other settings
    /// convert it [from](Self::from) an `Endpoint`.
    ///
    /// # Errors
    ///
    /// When `url` does not have that form.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let refuse = |why: String| {
            ConfigError::new(format!("the gRPC server {url:?}: {why}; use http://host:port"))
        };
        let uri: Uri = url.parse().map_err(|error| refuse(format!("{error}")))?;
        if uri.scheme_str() != Some("http") || uri.authority().is_none() {
            return Err(refuse(String::from("it is not an http URL")));
        }
        Ok(Self::from(Endpoint::from(uri)))
    }

    /// The URL of the server.
    pub fn uri(&self) -> &Uri {
        self.shared.endpoint.uri()
    }
}

impl From<Endpoint> for GrpcChannel {
    fn from(mut endpoint: Endpoint) -> Self {
        if endpoint.get_connect_timeout().is_none() {
            endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        }
        let shared = Shared { endpoint, current: ArcSwapOption::empty() };
        Self { shared: Arc::new(shared), ready: None }
    }
}

impl Shared {
    /// The shared channel, which is built if there is none.
    fn channel(&self) -> Result<Arc<Channel>, BoxError> {
        match self.current.load_full() {
            Some(channel) => Ok(channel),
            None => self.build(&None),
        }
    }

    /// Replaces `old`, unless another task has replaced it already. Returns the current channel.
    fn build(&self, old: &Option<Arc<Channel>>) -> Result<Arc<Channel>, BoxError> {
        // Tonic panics without a runtime.
        tokio::runtime::Handle::try_current()?;
        let new = Arc::new(self.endpoint.connect_lazy());
        self.current.compare_and_swap(old, Some(new.clone()));
        Ok(self.current.load_full().unwrap_or(new))
    }
}

impl<B> Service<Request<B>> for GrpcChannel
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<TonicBody>;
    type Error = BoxError;
    type Future = GrpcFuture<B>;

    /// Ready unless the channel's queue is full; see the documentation of the [module](crate::grpc).
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut rebuilt = false;
        loop {
            let (_, channel) = match &mut self.ready {
                Some(ready) => ready,
                empty => {
                    let source = self.shared.channel()?;
                    let channel = Channel::clone(&source);
                    empty.insert((source, channel))
                }
            };
            let Err(error) = ready!(channel.poll_ready(cx)) else {
                return Poll::Ready(Ok(()));
            };
            let ended = self.ready.take().map(|(source, _)| source);
            if rebuilt {
                return Poll::Ready(Err(error.into()));
            }
            rebuilt = true;
            tracing::debug!(uri = %self.shared.endpoint.uri(), %error, "the worker of the channel has ended; building another channel");
            self.shared.build(&ended)?;
        }
    }

    fn call(&mut self, request: Request<B>) -> GrpcFuture<B> {
        let call = self.ready.take().map(|(_, channel)| begin(channel, request));
        GrpcFuture { call, retry: None, retried: false, shared: self.shared.clone() }
    }
}

type Call<B> = ReclaimFuture<<Channel as Service<Request<TonicBody>>>::Future, IsUnsent, B>;

/// Begins a call on a channel that is ready.
fn begin<B>(channel: Channel, request: Request<B>) -> Call<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let is_unsent: IsUnsent = is_unsent;
    Reclaim::new(AnyBody(channel), is_unsent).call(request)
}

/// Connects, and keeps the connection for the next calls.
impl Redial for GrpcChannel {
    async fn redial(&self) -> Result<(), BoxError> {
        let channel = self.shared.endpoint.connect().await?;
        self.shared.current.store(Some(Arc::new(channel)));
        Ok(())
    }
}

/// Does not clone readiness, which belongs to the clone that was polled: it has reserved a slot in the
/// channel's queue.
impl Clone for GrpcChannel {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), ready: None }
    }
}

impl fmt::Debug for GrpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcChannel").field("uri", self.uri()).finish_non_exhaustive()
    }
}

/// A channel that accepts any body.
struct AnyBody(Channel);

impl<B> Service<Request<B>> for AnyBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<TonicBody>;
    type Error = transport::Error;
    type Future = <Channel as Service<Request<TonicBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.0.call(request.map(TonicBody::new))
    }
}

type IsUnsent = fn(&transport::Error) -> bool;

/// Whether no byte of the request can have reached the server: there was no connection, or hyper reports
/// that the request was canceled, that is, still in its queue when the connection ended.
fn is_unsent(error: &transport::Error) -> bool {
    chain(error).any(|error| {
        let canceled = error.downcast_ref().is_some_and(hyper::Error::is_canceled);
        canceled || error.is::<ConnectError>()
    })
}

/// Whether a connection was lost, as opposed to a failure to connect.
fn connection_was_lost(error: &BoxError) -> bool {
    !chain(error.as_ref()).any(<dyn Error>::is::<ConnectError>)
}

pin_project! {
    /// The future of [`GrpcChannel`].
    pub struct GrpcFuture<B> {
        #[pin]
        call: Option<Call<B>>,
        // The call to repeat, and the channel to poll ready for it.
        retry: Option<(Channel, Request<B>)>,
        retried: bool,
        shared: Arc<Shared>,
    }
}

impl<B> Future for GrpcFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<TonicBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let Some((channel, _)) = this.retry {
                let ready = ready!(channel.poll_ready(cx));
                if let Some((channel, request)) = this.retry.take() {
                    match ready {
                        Ok(()) => this.call.set(Some(begin(channel, request))),
                        Err(error) => {
                            return Poll::Ready(Err(not_sent(this.shared, request, error)));
                        }
                    }
                }
            }
            let Some(call) = this.call.as_mut().as_pin_mut() else {
                let error = "called before poll_ready has returned ready";
                return Poll::Ready(Err(error.into()));
            };
            let error = match ready!(call.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(error) => error,
            };
            let unsent = match error.downcast::<NotSent<Request<B>>>() {
                Ok(not_sent) => not_sent.into_parts(),
                Err(error) => return Poll::Ready(Err(error)),
            };
            let (Some(request), source) = unsent else {
                return Poll::Ready(Err(unsent.1));
            };
            // A new connection may work although the server has closed the old one.
            if connection_was_lost(&source)
                && !std::mem::replace(this.retried, true)
                && let Ok(channel) = this.shared.channel()
            {
                *this.retry = Some((Channel::clone(&channel), request));
                continue;
            }
            return Poll::Ready(Err(not_sent(this.shared, request, source)));
        }
    }
}

/// The error of a call that was not sent, with this channel as its [`Redial`].
fn not_sent<B: Send + 'static>(
    shared: &Arc<Shared>,
    request: Request<B>,
    source: impl Into<BoxError>,
) -> BoxError {
    let channel = GrpcChannel { shared: shared.clone(), ready: None };
    NotSent::new(request, source).with_redial(channel).into()
}

impl<B> fmt::Debug for GrpcFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
