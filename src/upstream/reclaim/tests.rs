//! Tests of `Reclaim`.

use std::{
    cell::Cell,
    future::Ready,
    io,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::Waker,
};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::error::redialer;

/// A stream of three chunks: neither `Clone` nor `Sync`.
struct Stream(Cell<u8>);

impl Body for Stream {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame<Self> {
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
async fn a_request_whose_connection_was_refused_is_returned_unchanged() {
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
async fn a_polled_body_is_not_returned() {
    let client = service_fn(|mut request: Request<ReclaimBody<Stream>>| async move {
        let _ = request.body_mut().frame().await;
        Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let backend = Reclaim::new(client, |_: &io::Error| true);
    let error = backend.oneshot(request()).await.unwrap_err();
    assert!(error.is::<io::Error>(), "the error of the client is returned");
}

#[tokio::test]
async fn other_errors_are_returned_unchanged() {
    let client = service_fn(|_: Request<ReclaimBody<Stream>>| async move {
        Err::<(), _>(io::Error::from(io::ErrorKind::BrokenPipe))
    });
    let backend =
        Reclaim::new(client, |e: &io::Error| e.kind() == io::ErrorKind::ConnectionRefused);
    assert!(backend.oneshot(request()).await.unwrap_err().is::<io::Error>());
}

/// A client of this readiness.
struct Client(Poll<Result<(), io::ErrorKind>>);

impl Service<Request<ReclaimBody<Stream>>> for Client {
    type Response = ();
    type Error = io::Error;
    type Future = Ready<io::Result<()>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.map_err(io::Error::from)
    }

    fn call(&mut self, _: Request<ReclaimBody<Stream>>) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[test]
fn it_is_ready_when_its_client_is() {
    let poll = |readiness| {
        let mut backend = Reclaim::new(Client(readiness), |_: &io::Error| true);
        let mut cx = Context::from_waker(Waker::noop());
        Service::<Request<Stream>>::poll_ready(&mut backend, &mut cx)
    };
    assert!(poll(Poll::Pending).is_pending());
    assert!(matches!(poll(Poll::Ready(Ok(()))), Poll::Ready(Ok(()))));
    let failed = poll(Poll::Ready(Err(io::ErrorKind::BrokenPipe)));
    assert!(matches!(failed, Poll::Ready(Err(error)) if error.is::<io::Error>()));
}

#[tokio::test]
async fn the_client_sees_the_length_and_the_end_of_the_body() {
    let client = service_fn(|request: Request<ReclaimBody<Full<Bytes>>>| async move {
        let mut body = request.into_body();
        let before = (body.is_end_stream(), body.size_hint().exact());
        let _ = body.frame().await;
        let after = (body.is_end_stream(), body.size_hint().exact());
        Ok::<_, io::Error>((before, after))
    });
    let backend = Reclaim::new(client, |_: &io::Error| true);
    let request = Request::new(Full::new(Bytes::from_static(b"sku=1")));
    let (before, after) = backend.oneshot(request).await.unwrap();
    assert_eq!(before, (false, Some(5)));
    assert_eq!(after, (true, Some(0)));
}

#[tokio::test]
async fn the_error_says_how_to_redial() {
    let redialed = Arc::new(AtomicUsize::new(0));
    let count = redialed.clone();
    let redial = move || {
        count.fetch_add(1, Relaxed);
        std::future::ready(Ok::<_, io::Error>(()))
    };
    let client = service_fn(|_: Request<ReclaimBody<Stream>>| async move {
        Err::<(), _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let backend = Reclaim::new(client, |_: &io::Error| true);
    let error = backend.clone().oneshot(request()).await.unwrap_err();
    assert!(redialer(&error).is_none());
    let error = backend.with_redial(redial).oneshot(request()).await.unwrap_err();
    redialer(&error).expect("it has a redialer").redial().await.unwrap();
    assert_eq!(redialed.load(Relaxed), 1);
}
