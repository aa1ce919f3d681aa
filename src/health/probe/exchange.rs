//! One request of a probe and its whole answer.

use std::{future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;

use crate::error::BoxError;

/// So many bytes of an answer are read; what comes after that is not looked at.
pub(crate) const MAX_ANSWER: usize = 64 * 1024;

/// An answer with as much of its body as is read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

/// Sends one request, and reads the answer so far that its connection can be used again.
pub(crate) async fn exchange<S, B, RB>(
    mut service: S,
    request: Request<B>,
) -> Result<Answer, BoxError>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
    RB: Body<Data = Bytes>,
    RB::Error: Into<BoxError>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    let answer = service.call(request);
    // A clone that is kept could hold a permit.
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
