//! A backend that answers when a test says so.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use http::{Request, Response};
use tokio::sync::oneshot;
use tower::Service;

use crate::support::Body;

/// A backend that answers when a test permits it. The number identifies its service.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: usize,
    pub(crate) number: usize,
    pub(crate) log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Who got a request: its occupied in `IDS`, and the number of its service.
    pub(crate) served: Vec<(usize, usize)>,
    /// The next response waits for it, if it is set.
    pub(crate) gate: Option<oneshot::Receiver<()>>,
}

impl Service<Request<Body>> for Node {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let gate = {
            let mut log = self.log.lock().unwrap();
            log.served.push((self.id, self.number));
            log.gate.take()
        };
        Box::pin(async move {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            Ok(Response::new(Body::from("some bytes")))
        })
    }
}
