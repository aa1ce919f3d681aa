//! A body without its type.

use std::{
    any::Any,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;

pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A body without its type.
pub(super) trait Erased: Send {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled;
    fn is_end(&self) -> bool;
    fn hint(&self) -> SizeHint;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<B> Erased for B
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        Body::poll_frame(self, cx).map(|frame| frame.map(|result| result.map_err(Into::into)))
    }

    fn is_end(&self) -> bool {
        Body::is_end_stream(self)
    }

    fn hint(&self) -> SizeHint {
        Body::size_hint(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn the_length_of_a_body_is_known_without_its_type() {
        let body: Box<dyn Erased> = Box::new(Full::<Bytes>::from("abc"));
        assert!(!body.is_end());
        assert_eq!(body.hint().exact(), Some(3));
        let body: Box<dyn Erased> = Box::new(Empty::<Bytes>::new());
        assert!(body.is_end());
        assert_eq!(body.hint().exact(), Some(0));
    }
}
