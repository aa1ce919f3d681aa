//! Backends that are spoken to in HTTP/2.

use std::convert::Infallible;

use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::{client, process::Gateway};

/// A server of one gRPC method. Returns its URL.
async fn grpc() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.version(), Version::HTTP_2);
                assert_eq!(request.headers()["te"], "trailers");
                let message = request.into_body().collect().await.unwrap().to_bytes();
                let trailers = async {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    Some(Ok(trailers))
                };
                let body = Full::new(message).with_trailers(trailers);
                let response = Response::builder().header("content-type", "application/grpc");
                Ok::<_, Infallible>(response.body(body).unwrap())
            });
            let server = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
        }
    });
    url
}

#[tokio::test]
async fn a_grpc_call_passes_with_its_trailers() {
    let url = grpc().await;
    let backend = format!("[[backend]]\nid = \"a\"\nurl = \"{url}\"\n");
    for text in
        [format!("{backend}http2 = \"on\""), format!("[upstream]\nhttp2 = \"on\"\n{backend}")]
    {
        let gateway = Gateway::configured(&text).await;
        let mut sender = client::http2(gateway.addr).await;
        for _ in 0..3 {
            let request = Request::post(format!("http://{}/shop.Cart/Get", gateway.addr))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x01x")))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 200);
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(body.to_bytes(), &b"\0\0\0\0\x01x"[..]);
        }
    }
}
