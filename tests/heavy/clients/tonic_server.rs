//! The layer in a Tonic server, which provides the address of the client.

use std::{convert::Infallible, net::SocketAddr};

use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tonic::{
    service::Routes,
    transport::server::{Server, TcpIncoming},
};
use tower::{ServiceExt, service_fn};
use tower_sticky::{Backends, Peer, StickyLayer, affinity::ClientIp};

type Bytes = bytes::Bytes;

const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[tokio::test]
async fn tonic_provides_the_client_address() {
    let backends = Backends::from_iter(NAMES.map(|name| {
        let answer = move |_: Request<tonic::body::Body>| async move {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(name))))
        };
        (name, service_fn(answer))
    }));
    let layer = StickyLayer::new(backends, ClientIp::new());

    let mut request = Request::new(tonic::body::Body::empty());
    request.extensions_mut().insert(Peer::new(SocketAddr::from(([127, 0, 0, 1], 1))));
    let expected = layer.clone().into_service().oneshot(request).await.unwrap();
    let expected = expected.into_body().collect().await.unwrap().to_bytes();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server::builder().layer(layer).add_routes(Routes::default());
    let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..6 {
        let request = Request::post(format!("http://{addr}/shop.Shop/Buy"))
            .header("content-type", "application/grpc")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = client.send_request(request).await.unwrap();
        let answer = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(answer, expected, "by the address, not by the strategy's turn");
    }
    connection.abort();
    serving.abort();
}
