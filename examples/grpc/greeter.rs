//! A gRPC service written by hand, so that the examples need no `protoc`:
//!
//! ```proto
//! syntax = "proto3";
//! package hello;
//!
//! message HelloRequest { string name = 1; bytes payload = 2; }
//! message HelloReply { string message = 1; string server = 2; uint64 calls = 3; bytes payload = 4; }
//!
//! service Greeter {
//!   rpc SayHello (HelloRequest) returns (HelloReply);
//!   rpc Watch (HelloRequest) returns (stream HelloReply);
//!   rpc Collect (stream HelloRequest) returns (HelloReply);
//!   rpc Chat (stream HelloRequest) returns (stream HelloReply);
//! }
//! ```

#![allow(dead_code, reason = "each program uses a part of it")]

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio_stream::Stream;
use tonic::{
    IntoRequest, IntoStreamingRequest, Request, Response, Status, Streaming, body::Body,
    client::GrpcService,
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloRequest {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HelloReply {
    #[prost(string, tag = "1")]
    pub message: String,
    #[prost(string, tag = "2")]
    pub server: String,
    #[prost(uint64, tag = "3")]
    pub calls: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub payload: Bytes,
}

const SAY_HELLO: &str = "/hello.Greeter/SayHello";
const WATCH: &str = "/hello.Greeter/Watch";
const COLLECT: &str = "/hello.Greeter/Collect";
const CHAT: &str = "/hello.Greeter/Chat";

/// The client, over any gRPC channel.
#[derive(Debug, Clone)]
pub struct GreeterClient<T> {
    inner: tonic::client::Grpc<T>,
}

impl<T> GreeterClient<T>
where
    T: GrpcService<Body>,
    T::Error: Into<BoxError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<BoxError> + Send,
{
    pub fn new(channel: T) -> Self {
        Self { inner: tonic::client::Grpc::new(channel) }
    }

    pub async fn say_hello(
        &mut self,
        request: impl IntoRequest<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(SAY_HELLO);
        self.inner.unary(request.into_request(), path, ProstCodec::default()).await
    }

    pub async fn watch(
        &mut self,
        request: impl IntoRequest<HelloRequest>,
    ) -> Result<Response<Streaming<HelloReply>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(WATCH);
        self.inner.server_streaming(request.into_request(), path, ProstCodec::default()).await
    }

    pub async fn collect(
        &mut self,
        request: impl IntoStreamingRequest<Message = HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(COLLECT);
        let request = request.into_streaming_request();
        self.inner.client_streaming(request, path, ProstCodec::default()).await
    }

    pub async fn chat(
        &mut self,
        request: impl IntoStreamingRequest<Message = HelloRequest>,
    ) -> Result<Response<Streaming<HelloReply>>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(CHAT);
        self.inner.streaming(request.into_streaming_request(), path, ProstCodec::default()).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.inner.ready().await.map_err(|error| Status::from_error(error.into()))
    }
}

pub type Replies = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

/// The service that a server implements.
pub trait Greeter: Clone + Send + Sync + 'static {
    fn say_hello(
        self,
        request: Request<HelloRequest>,
    ) -> impl Future<Output = Result<Response<HelloReply>, Status>> + Send;

    fn watch(
        self,
        request: Request<HelloRequest>,
    ) -> impl Future<Output = Result<Response<Replies>, Status>> + Send;

    fn collect(
        self,
        request: Request<Streaming<HelloRequest>>,
    ) -> impl Future<Output = Result<Response<HelloReply>, Status>> + Send;

    fn chat(
        self,
        request: Request<Streaming<HelloRequest>>,
    ) -> impl Future<Output = Result<Response<Replies>, Status>> + Send;
}

/// The server, for `tonic::transport::Server::add_service`.
#[derive(Debug, Clone)]
pub struct GreeterServer<G>(pub G);

impl<G> tonic::server::NamedService for GreeterServer<G> {
    const NAME: &'static str = "hello.Greeter";
}

impl<G, B> Service<http::Request<B>> for GreeterServer<G>
where
    G: Greeter,
    B: http_body::Body + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let greeter = self.0.clone();
        let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
        Box::pin(async move {
            Ok(match request.uri().path() {
                SAY_HELLO => {
                    let method = service_fn(move |request| greeter.clone().say_hello(request));
                    grpc.unary(method, request).await
                }
                WATCH => {
                    let method = service_fn(move |request| greeter.clone().watch(request));
                    grpc.server_streaming(method, request).await
                }
                COLLECT => {
                    let method = service_fn(move |request| greeter.clone().collect(request));
                    grpc.client_streaming(method, request).await
                }
                CHAT => {
                    let method = service_fn(move |request| greeter.clone().chat(request));
                    grpc.streaming(method, request).await
                }
                _ => Status::unimplemented("there is no such method").into_http(),
            })
        })
    }
}
