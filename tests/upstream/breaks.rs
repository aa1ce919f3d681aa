//! Responses that break off: the received data is delivered before the failure, which counts once.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Health, NoInner, State, StickyLayer, StickyService, affinity::Cookie, proxy::Upstream,
};

use crate::support::*;

/// Longer than anything takes; a test that waits for it has failed.
const FOREVER: Duration = Duration::from_secs(60);
const BROKEN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";

pub(crate) type Service = StickyService<Upstream, NoInner>;

pub(crate) fn service(upstream: Upstream, failures: u32) -> (Backends<Upstream>, Service) {
    let backends = Backends::from_iter([("a", upstream)]);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
    let layer = layer.health(Health::new().consecutive_failures(failures).max_ejected(1.0));
    (backends, layer.into_service())
}

/// Says four bytes, lets them be sent, and fails.
struct Half(u8);

impl Body for Half {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
        self.0 += 1;
        match self.0 {
            1 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"half"))))),
            2..20 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Some(Err("that was all"))),
        }
    }
}

/// A backend that breaks off, over HTTP/2 with RST_STREAM.
async fn breaking(http2: bool) -> Upstream {
    if http2 {
        // On a thread of its own, so that it has sent everything before it breaks off.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                let backend = server(true, |_| async { Response::new(Half(0)) }).await;
                let _ = sender.send(backend);
                std::future::pending::<()>().await;
            });
        });
        return receiver.await.unwrap().upstream().http2(true);
    }
    let backend = raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(BROKEN.as_bytes()).await
    })
    .await;
    backend.upstream()
}

async fn ask(addr: SocketAddr, http2: bool) -> hyper::Result<Response<Incoming>> {
    let request = Request::get(format!("http://{addr}/")).header("host", "a");
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    if http2 {
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await
    }
}

async fn everything_is_delivered() {
    for to_backend in [false, true] {
        for to_client in [false, true] {
            let (_backends, service) = service(breaking(to_backend).await, 0);
            let addr = front(service).await;
            for _ in 0..20 {
                let which = format!("h2 to backend: {to_backend}, to client: {to_client}");
                let answer = timeout(FOREVER, ask(addr, to_client)).await.unwrap();
                let mut body = answer.unwrap_or_else(|e| panic!("{which}: {e:?}")).into_body();
                let frame =
                    body.frame().await.unwrap().unwrap_or_else(|e| panic!("{which}: {e:?}"));
                assert_eq!(frame.into_data().unwrap(), "half", "{which}");
                assert!(matches!(body.frame().await, Some(Err(_))), "{which}: no clean end");
            }
        }
    }
}

#[tokio::test]
async fn received_data_is_delivered_before_the_failure() {
    everything_is_delivered().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn received_data_is_delivered_with_several_threads() {
    everything_is_delivered().await;
}

/// Reads an answer as a server would.
async fn read(service: &Service) -> Result<Bytes, tower_sticky::BoxError> {
    let answer = service.clone().oneshot(get("/")).await.unwrap();
    answer.into_body().collect().await.map(http_body_util::Collected::to_bytes)
}

#[tokio::test]
async fn a_response_that_breaks_off_is_one_failure() {
    for http2 in [false, true] {
        let (backends, service) = service(breaking(http2).await, 2);
        read(&service).await.unwrap_err();
        assert_eq!(backends.get("a").unwrap().state, State::Ready);
        read(&service).await.unwrap_err();
        assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    }
}

#[tokio::test]
async fn a_complete_response_resets_the_count() {
    // Every other answer breaks off.
    let backend = raw(|number, mut socket| async move {
        read_head(&mut socket).await?;
        let whole = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nhalf";
        socket.write_all(if number % 2 == 0 { BROKEN } else { whole }.as_bytes()).await
    })
    .await;
    let (backends, service) = service(backend.upstream(), 2);
    for _ in 0..3 {
        read(&service).await.unwrap_err();
        assert_eq!(read(&service).await.unwrap(), "half");
    }
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}

#[tokio::test]
async fn a_reader_that_stops_is_no_failure() {
    let backend = raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(BROKEN.as_bytes()).await?;
        std::future::pending::<()>().await;
        Ok(())
    })
    .await;
    let (backends, service) = service(backend.upstream(), 1);
    let answer = service.clone().oneshot(get("/")).await.unwrap();
    let mut body = answer.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}

#[tokio::test]
async fn an_invalid_response_is_one_failure() {
    let backend = canned("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    let (backends, service) = service(backend.upstream(), 2);
    for state in [State::Ready, State::Suspect] {
        let answer = service.clone().oneshot(get("/")).await.unwrap();
        assert_eq!(answer.status(), 502);
        assert_eq!(backends.get("a").unwrap().state, state);
    }
}
