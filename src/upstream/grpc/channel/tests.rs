//! Tests of `GrpcChannel`.

use std::{convert::Infallible, net::SocketAddr};

use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{Instant, timeout},
};
use tower::ServiceExt;

use super::*;

const GET: &str = "/shop.Cart/Get";
const WAIT: &str = "/shop.Cart/Wait";

/// The socket of a server that does not listen yet, and a channel to it.
fn server() -> (TcpSocket, GrpcChannel) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    (socket, GrpcChannel::new(&url).unwrap())
}

/// Answers the calls on a connection, one at a time. It ends when it has received one to wait.
async fn serve(socket: TcpStream) {
    let (sender, mut waiting) = mpsc::unbounded_channel();
    let answer = service_fn(move |request: Request<Incoming>| {
        let waits = request.uri().path() == WAIT;
        if waits {
            let _ = sender.send(());
        }
        async move {
            if waits {
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2.max_concurrent_streams(1);
    tokio::select! {
        _ = http2.serve_connection(TokioIo::new(socket), answer) => {}
        _ = waiting.recv() => {}
    }
}

/// A call without a message.
fn call(path: &str) -> Request<Empty<Bytes>> {
    Request::post(path).body(Empty::new()).unwrap()
}

fn is_returned(error: &BoxError) -> bool {
    error.is::<NotSent<Request<Empty<Bytes>>>>()
}

#[tokio::test]
async fn a_redial_connects_and_the_next_call_uses_its_connection() {
    let (socket, channel) = server();
    assert!(channel.redial().await.is_err(), "nothing listens");
    let listener = socket.listen(8).unwrap();
    channel.redial().await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    drop(listener);
    drop(tokio::spawn(serve(socket)));
    assert_eq!(channel.oneshot(call(GET)).await.unwrap().status(), 200);
}

/// Of the calls on a lost connection, one was received, and the other still waited for the end of the first.
#[tokio::test]
async fn of_a_lost_connection_only_calls_that_were_not_sent_are_repeated() {
    let (socket, channel) = server();
    let listener = socket.listen(8).unwrap();
    drop(tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            serve(socket).await;
        }
    }));
    let send = |path| channel.clone().oneshot(call(path));
    // From here on the channel knows that the server takes one call at a time.
    assert_eq!(send(GET).await.unwrap().status(), 200);
    let (received, _next, queued) = tokio::join!(send(WAIT), send(GET), send(GET));
    let error = received.unwrap_err();
    assert!(!is_returned(&error), "{error:?}");
    assert_eq!(queued.unwrap().status(), 200, "on a new connection");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_connected_to_once() {
    let (socket, channel) = server();
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    // When its queue is full, connecting takes for ever.
    while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
        queued.push(stream.unwrap());
    }
    tokio::time::pause();
    let begun = Instant::now();
    let error = channel.oneshot(call(GET)).await.unwrap_err();
    assert!(is_returned(&error), "{error:?}");
    assert!(begun.elapsed() >= CONNECT_TIMEOUT);
    assert!(begun.elapsed() < 2 * CONNECT_TIMEOUT, "not twice");
}
