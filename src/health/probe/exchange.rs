//! Sends the request of a probe and reads its answer.

use std::{future::poll_fn, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;

use crate::{error::BoxError, health::ProbeBody};

/// The most bytes of a body that are read.
pub(crate) const MAX_ANSWER: usize = 64 * 1024;

/// An answer, with at most [`MAX_ANSWER`] bytes of its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// The `User-Agent` of probes.
pub(super) fn user_agent() -> HeaderValue {
    HeaderValue::from_static(concat!("tower-sticky/", env!("CARGO_PKG_VERSION")))
}

/// Sends probe requests with bodies of type `B`.
pub(super) struct Sender<B> {
    make_body: Arc<dyn Fn(ProbeBody) -> B + Send + Sync>,
}

impl Sender<ProbeBody> {
    pub(super) fn new() -> Self {
        Self::mapping(|body| body)
    }
}

impl<B> Sender<B> {
    /// Converts bodies with `make_body`.
    pub(super) fn mapping(make_body: impl Fn(ProbeBody) -> B + Send + Sync + 'static) -> Self {
        Self { make_body: Arc::new(make_body) }
    }

    /// Sends a request, and reads the answer. See [`exchange`].
    pub(super) async fn send<S, RB>(
        &self,
        service: S,
        head: Request<()>,
        body: ProbeBody,
    ) -> Result<Answer, BoxError>
    where
        S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>>,
        RB: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        exchange(service, head.map(|()| (self.make_body)(body))).await
    }
}

impl<B> Clone for Sender<B> {
    fn clone(&self) -> Self {
        Self { make_body: self.make_body.clone() }
    }
}

/// Sends one request, and reads its answer to the end so that the connection can be reused, or up to
/// [`MAX_ANSWER`] bytes.
async fn exchange<S, B, RB>(mut service: S, request: Request<B>) -> Result<Answer, BoxError>
where
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>>,
    RB: Body<Data = Bytes, Error: Into<BoxError>>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    let answer = service.call(request);
    // The clone may hold a permit.
    drop(service);
    let (parts, body) = answer.await.map_err(Into::into)?.into_parts();
    let mut body = pin!(body);
    let mut answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
    };
    while answer.body.len() < MAX_ANSWER {
        let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
            break;
        };
        match frame.map_err(Into::into)?.into_data() {
            Ok(data) => {
                let room = MAX_ANSWER - answer.body.len();
                answer.body.extend_from_slice(&data[..data.len().min(room)]);
            }
            Err(frame) => answer.trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok(answer)
}
