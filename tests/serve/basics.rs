//! Services, listeners, extensions, and the stop.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, extract::ConnectInfo, routing::get};
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::{Service, service_fn};
use tower_sticky::serve::{Limits, RequestBody, Server};

use crate::support::{GET, addr, any_port, connect, exchange, is_closed, server};

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_axum_router_is_served_with_the_address_of_its_client() {
    let show = |ConnectInfo(addr): ConnectInfo<SocketAddr>| async move { addr.to_string() };
    let app: Router = Router::new().route("/", get(show));
    let server = Server::new(app).listener(any_port().await).connect_info(true).start().unwrap();
    let mut client = connect(&server).await;
    let own = client.local_addr().unwrap().to_string();
    assert!(exchange(&mut client, GET).await.ends_with(&own));
}

#[tokio::test]
async fn several_listeners_and_workers_serve_one_application() {
    let server = server(any_port().await).listener(any_port().await).workers(2).start().unwrap();
    assert_eq!(server.local_addrs().len(), 2);
    let mut clients = Vec::new();
    for listener in server.local_addrs() {
        for _ in 0..3 {
            let mut client = tokio::net::TcpStream::connect(listener.tcp().unwrap()).await.unwrap();
            let answer = exchange(&mut client, GET).await;
            assert!(answer.contains("trusted=false https=false"), "{answer}");
            clients.push(client);
        }
    }
    assert_eq!(server.open_connections(), 6);
    assert!(server.shutdown(LONG).await, "idle connections are closed");
    assert_eq!(server.open_connections(), 0);
    for client in &mut clients {
        assert!(is_closed(client).await);
    }
}

#[tokio::test]
async fn one_limit_on_connections_holds_for_all_listeners() {
    let limits = Limits::new().connections(1);
    let server = server(any_port().await).listener(any_port().await).limits(limits);
    let server = server.start().unwrap();
    let [first, second] = server.local_addrs() else { panic!() };
    let mut one = tokio::net::TcpStream::connect(first.tcp().unwrap()).await.unwrap();
    exchange(&mut one, GET).await;
    let mut two = tokio::net::TcpStream::connect(second.tcp().unwrap()).await.unwrap();
    let mut answer = Box::pin(exchange(&mut two, GET));
    tokio::select! {
        _ = &mut answer => panic!("the limit is exceeded"),
        () = tokio::time::sleep(Duration::from_millis(100)) => {}
    }
    drop(one);
    assert!(answer.await.starts_with("HTTP/1.1 200"), "the other listener's client is next");
}

/// Is ready once the flag is set, and refuses to be called before.
#[derive(Clone)]
struct Reluctant {
    ready: Arc<AtomicBool>,
    was_ready: bool,
}

impl Service<Request<RequestBody>> for Reluctant {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.was_ready = self.ready.load(SeqCst);
        if self.was_ready {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        self.ready.store(true, SeqCst);
        Poll::Pending
    }

    fn call(&mut self, _: Request<RequestBody>) -> Self::Future {
        assert!(self.was_ready, "called before it was ready");
        std::future::ready(Ok(Response::new("ready".to_owned())))
    }
}

#[tokio::test]
async fn a_service_is_called_when_it_is_ready() {
    let service = Reluctant { ready: Arc::default(), was_ready: false };
    let server = Server::new(service).listener(any_port().await).start().unwrap();
    assert!(exchange(&mut connect(&server).await, GET).await.ends_with("ready"));
}

#[tokio::test]
async fn a_first_request_of_any_size_is_read() {
    let server = server(any_port().await).start().unwrap();
    for size in [0, 1, 1_990, 2_047, 2_048, 2_049, 4_096, 20_000] {
        let value = "x".repeat(size);
        let head = format!("GET / HTTP/1.1\r\nhost: a.test\r\nx-test: {value}\r\n");
        let mut client = connect(&server).await;
        // Both are sent at once.
        let two = format!("{head}\r\n{head}connection: close\r\n\r\n");
        client.write_all(two.as_bytes()).await.unwrap();
        let mut answers = String::new();
        client.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches(&format!("x-test: {value}\n")).count(), 2, "{size}: {answers}");
    }
}

/// The client has to know that the connection ends after the response: it might send its next request otherwise.
#[tokio::test]
async fn a_response_says_close_while_the_future_of_the_service_still_has_the_body() {
    let holds = service_fn(|request: Request<RequestBody>| {
        std::future::poll_fn(move |_| {
            let _body = request.body();
            Poll::Ready(Ok::<_, Infallible>(Response::new("no".to_owned())))
        })
    });
    let server = Server::new(holds).listener(any_port().await).start().unwrap();
    let upload = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 100\r\n\r\nbegin";
    let answer = exchange(&mut connect(&server).await, upload).await;
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    let whole = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 0\r\n\r\n";
    let answer = exchange(&mut connect(&server).await, whole).await;
    assert!(!answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn a_server_without_a_listener_does_not_start() {
    let error = Server::new(crate::support::app()).start().unwrap_err();
    assert!(error.to_string().contains("no listener"), "{error}");
}

#[tokio::test]
async fn no_connection_is_accepted_after_the_stop() {
    let server = server(any_port().await).start().unwrap();
    let addr = addr(&server);
    assert!(server.shutdown(LONG).await);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
