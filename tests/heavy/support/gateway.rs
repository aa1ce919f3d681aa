//! A small gateway: hyper in front of a sticky service.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;
use tower_sticky::{NoInner, Outcome, StickyService, proxy::Upstream};

/// The request header with a number that tells requests apart.
pub const NUMBER: &str = "x-number";
/// The response headers with the outcome of a request.
pub const VERDICT: &str = "x-verdict";
pub const REASON: &str = "x-reason";

pub fn number(headers: &HeaderMap) -> Option<usize> {
    headers.get(NUMBER)?.to_str().ok()?.parse().ok()
}

/// A gateway that runs until it is dropped.
pub struct Gateway {
    pub addr: SocketAddr,
    /// Numbers of the requests whose bodies were polled: they were being sent to a backend.
    pub on_their_way: Arc<Mutex<HashSet<usize>>>,
    accepting: JoinHandle<()>,
}

impl Gateway {
    pub async fn start(service: StickyService<Upstream, NoInner>) -> Self {
        Self::serve(service, false).await
    }

    /// Starts a gateway that only speaks HTTP/2.
    pub async fn start_http2(service: StickyService<Upstream, NoInner>) -> Self {
        Self::serve(service, true).await
    }

    async fn serve(service: StickyService<Upstream, NoInner>, speaks_http2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let on_their_way = Arc::<Mutex<HashSet<usize>>>::default();
        let noted = on_their_way.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                socket.set_nodelay(true).unwrap();
                let (service, noted) = (service.clone(), noted.clone());
                let answer = service_fn(move |request| {
                    answer(service.clone(), Watched::new(request, noted.clone()))
                });
                let socket = TokioIo::new(socket);
                if speaks_http2 {
                    let server = http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(server.serve_connection(socket, answer));
                } else {
                    let connection = http1::Builder::new().serve_connection(socket, answer);
                    tokio::spawn(connection.with_upgrades());
                }
            }
        });
        Self { addr, on_their_way, accepting }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn answer(
    service: StickyService<Upstream, NoInner>,
    request: Request<Watched>,
) -> Result<Response<impl Body<Data = Bytes, Error = tower_sticky::BoxError>>, Infallible> {
    let mut response = service.oneshot(request).await?;
    if let Some(outcome) = Outcome::of(response.extensions()) {
        let (verdict, reason) = (outcome.verdict().as_str(), outcome.reason());
        let headers = response.headers_mut();
        headers.insert(VERDICT, HeaderValue::from_static(verdict));
        if let Some(reason) = reason {
            headers.insert(REASON, HeaderValue::from_static(reason.as_str()));
        }
    }
    Ok(response)
}

/// A request body that records when it is first polled.
struct Watched {
    body: Incoming,
    note: Option<(usize, Arc<Mutex<HashSet<usize>>>)>,
}

impl Watched {
    fn new(request: Request<Incoming>, noted: Arc<Mutex<HashSet<usize>>>) -> Request<Self> {
        let note = number(request.headers()).map(|number| (number, noted));
        request.map(|body| Self { body, note })
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some((number, noted)) = self.note.take() {
            noted.lock().unwrap().insert(number);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
