//! A backend over hyper that echoes bodies and records its requests.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tower_sticky_heavy_tests::{gateway::number, server::Server};

/// The response header that names the server.
pub const SERVER: &str = "x-server";
/// The request header with the name of a server that must not answer.
pub const HOLD: &str = "x-hold";

pub struct Backend {
    pub name: &'static str,
    pub server: Server,
    /// Numbers of the requests whose heads it got.
    pub received: Arc<Mutex<HashSet<usize>>>,
}

impl Backend {
    pub fn start(name: &'static str) -> Self {
        let received = Arc::<Mutex<HashSet<usize>>>::default();
        let noted = received.clone();
        let server = Server::start(move |socket| {
            let noted = noted.clone();
            let answer = service_fn(move |request| answer(name, request, noted.clone()));
            async move {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
            }
        });
        Self { name, server, received }
    }

    pub fn received(&self, number: usize) -> bool {
        self.received.lock().unwrap().contains(&number)
    }
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
    noted: Arc<Mutex<HashSet<usize>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let number = number(request.headers()).unwrap_or_default();
    noted.lock().unwrap().insert(number);
    if number.is_multiple_of(8) {
        // Some take longer, so that one is always in flight.
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    if request.headers().get(HOLD).is_some_and(|held| held == name) {
        std::future::pending::<()>().await;
    }
    let body = request.into_body().collect().await?.to_bytes();
    let response = Response::builder().header(SERVER, name).body(Full::new(body));
    Ok(response.unwrap())
}
