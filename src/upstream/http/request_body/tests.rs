use std::{future::poll_fn, marker::PhantomPinned};

use http_body::Frame;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;
use crate::util::PolledFrame;

/// A body that may not move once it is polled.
struct Pinned(u8, PhantomPinned);

impl Body for Pinned {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame<Self> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

#[tokio::test]
async fn only_an_untouched_body_comes_back() {
    let (body, sending) = RequestBody::new(Pinned(7, PhantomPinned));
    assert!(!sending.is_done());
    assert_eq!(body.into_untouched::<Pinned>().unwrap().0, 7);
    assert!(sending.is_done(), "the connection has dropped it");

    let (mut body, sending) = RequestBody::new(Pinned(7, PhantomPinned));
    poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
    assert_eq!(sending.phase(), Phase::Connection);
    assert!(body.into_untouched::<Pinned>().is_none(), "a polled body is pinned");
}

/// A body of unknown length.
struct Channel(UnboundedReceiver<&'static str>);

impl Body for Channel {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
        let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
        self.0.poll_recv(cx).map(|text| text.map(|text| Ok(data(text))))
    }
}

fn channel() -> (UnboundedSender<&'static str>, RequestBody, Arc<Sending>) {
    let (sender, receiver) = unbounded_channel();
    let (body, sending) = RequestBody::new(Channel(receiver));
    (sender, body, sending)
}

fn is_pending(body: &mut RequestBody) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    Pin::new(body).poll_frame(&mut cx).is_pending()
}

#[tokio::test(start_paused = true)]
async fn the_client_is_waited_for_since_it_was_asked() {
    let (sender, mut body, sending) = channel();
    tokio::time::advance(Duration::from_secs(3)).await;
    assert_eq!(sending.phase(), Phase::Connection);
    let asked = Instant::now();
    for _ in 0..2 {
        assert!(is_pending(&mut body));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(sending.phase(), Phase::Client(asked));
    }
    sender.send("x").unwrap();
    assert!(!is_pending(&mut body));
    assert_eq!(sending.phase(), Phase::Connection);
    drop(body);
    assert_eq!(sending.phase(), Phase::Done(Instant::now()));
}

#[tokio::test]
async fn a_body_is_recorded_until_the_response_comes() {
    for is_answered in [false, true] {
        let (sender, mut body, sending) = channel();
        body.record(4);
        sender.send("abcd").unwrap();
        drop(sender);
        body.frame().await.unwrap().unwrap();
        if is_answered {
            sending.stop_recording();
        }
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(sending.take_recorded().is_some(), !is_answered);
    }
}

#[tokio::test]
async fn a_body_of_announced_length_ends_with_its_last_byte() {
    let (mut body, sending) = RequestBody::new(Full::new(Bytes::from_static(b"abcd")));
    body.record(3);
    assert!(body.recorder.is_none(), "it is too large");
    assert_eq!(body.size_hint().exact(), Some(4));
    assert!(!body.is_end_stream());
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none(), "it is as long as announced");
    assert!(sending.client_error().is_none());
}

#[tokio::test]
async fn the_client_is_not_asked_for_more_than_the_connection_sends() {
    let (sender, mut body, sending) = channel();
    body.limit_unsent(&Arc::default(), 4);
    for _ in 0..3 {
        sender.send("ab").unwrap();
    }
    assert!(!is_pending(&mut body));
    assert!(!is_pending(&mut body));
    assert!(is_pending(&mut body), "four bytes are not sent");
    assert_eq!(sending.phase(), Phase::Connection, "the client is not waited for");
}
