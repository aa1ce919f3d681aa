//! The body of an HTTP/2 request as it was sent, so that a stream that the backend has refused unprocessed can go
//! again.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::util::PolledFrame;

/// A frame, which can be sent again.
#[derive(Debug)]
enum Recorded {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// Records the frames of a body, as long as they are few bytes.
#[derive(Debug)]
pub(super) struct Recorder {
    frames: VecDeque<Recorded>,
    /// How many bytes may still be recorded. None: they were too many.
    left: Option<usize>,
}

impl Recorder {
    /// Records up to so many bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { frames: VecDeque::new(), left: Some(limit) }
    }

    pub(super) fn record(&mut self, frame: &Frame<Bytes>) {
        let Some(left) = self.left else { return };
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => match left.checked_sub(data.len()) {
                Some(left) => {
                    self.left = Some(left);
                    self.frames.push_back(Recorded::Data(data.clone()));
                }
                None => {
                    self.left = None;
                    self.frames.clear();
                }
            },
            (None, Some(trailers)) => self.frames.push_back(Recorded::Trailers(trailers.clone())),
            (None, None) => {}
        }
    }

    /// The whole body, if it was not too large. `has_length`: its length was announced.
    pub(super) fn finish(self, has_length: bool) -> Option<RecordedBody> {
        self.left.map(|_| RecordedBody { frames: self.frames, has_length })
    }
}

/// A body that was sent before.
#[derive(Debug)]
pub(super) struct RecordedBody {
    frames: VecDeque<Recorded>,
    has_length: bool,
}

impl Body for RecordedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame<Self> {
        Poll::Ready(self.frames.pop_front().map(|frame| {
            Ok(match frame {
                Recorded::Data(data) => Frame::data(data),
                Recorded::Trailers(trailers) => Frame::trailers(trailers),
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if !self.has_length {
            return SizeHint::default();
        }
        let bytes = self.frames.iter().map(|frame| match frame {
            Recorded::Data(data) => data.len() as u64,
            Recorded::Trailers(_) => 0,
        });
        SizeHint::with_exact(bytes.sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_recorded_whole_or_not_at_all() {
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        let mut recorder = Recorder::new(4);
        recorder.record(&data("ab"));
        recorder.record(&data("cd"));
        recorder.record(&Frame::trailers(HeaderMap::new()));
        let body = recorder.finish(true).unwrap();
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(body.frames.len(), 3);
        assert!(!body.is_end_stream());
        assert!(Recorder::new(4).finish(false).unwrap().is_end_stream(), "nothing was sent");

        let mut recorder = Recorder::new(4);
        for _ in 0..3 {
            recorder.record(&data("abc"));
        }
        assert!(recorder.frames.is_empty(), "nothing is held of a body that is too large");
        assert!(recorder.finish(true).is_none());
    }
}
