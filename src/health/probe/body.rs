//! `ProbeBody`: the request body of the built-in probes.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::util::PolledFrame;

/// The request body of [`HttpProbe`](crate::HttpProbe) and [`GrpcProbe`](crate::GrpcProbe), a single
/// buffer. Their `map_body` converts it for a service that takes another type.
#[derive(Debug, Clone, Default)]
pub struct ProbeBody(Bytes);

impl ProbeBody {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Body for ProbeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame<Self> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_sent_once_in_one_piece() {
        let mut body = ProbeBody::new(Bytes::from_static(b"ping"));
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (false, Some(4)));
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ping");
        assert_eq!((body.is_end_stream(), body.size_hint().exact()), (true, Some(0)));
        assert!(body.frame().await.is_none());
        assert!(ProbeBody::default().frame().await.is_none(), "an empty body has no frame");
    }
}
