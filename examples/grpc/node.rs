//! A greeter that returns its own name and the number of calls by each caller.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};

use super::greeter::{Greeter, HelloReply, HelloRequest, Replies};

#[derive(Debug, Clone)]
pub struct Node {
    name: &'static str,
    calls: Arc<Mutex<HashMap<String, u64>>>,
}

impl Node {
    pub fn new(name: &'static str) -> Self {
        Self { name, calls: Arc::default() }
    }

    fn greet(&self, caller: &str) -> HelloReply {
        let mut all = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let calls = all.entry(caller.to_owned()).or_default();
        *calls += 1;
        HelloReply {
            message: format!("hello {caller}"),
            server: self.name.into(),
            calls: *calls,
            ..HelloReply::default()
        }
    }
}

impl Greeter for Node {
    async fn say_hello(
        self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        Ok(Response::new(self.greet(&request.into_inner().name)))
    }

    async fn watch(self, request: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        let replies = tokio_stream::once(Ok(self.greet(&request.into_inner().name)));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn collect(
        self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<HelloReply>, Status> {
        let mut requests = request.into_inner();
        let mut last = None;
        while let Some(request) = requests.next().await {
            last = Some(self.greet(&request?.name));
        }
        last.map(Response::new).ok_or_else(|| Status::invalid_argument("no request to greet"))
    }

    async fn chat(
        self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let requests = request.into_inner();
        let replies = requests.map(move |request| Ok(self.greet(&request?.name)));
        Ok(Response::new(Box::pin(replies)))
    }
}
