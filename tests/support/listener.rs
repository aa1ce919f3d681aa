//! A client of server-sent events.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::process::FOREVER;

/// Listens to `/events`, from the moment at which it is there.
#[derive(Debug)]
pub(crate) struct Listener {
    body: Incoming,
    text: String,
}

impl Listener {
    pub(crate) async fn new(admin: SocketAddr) -> Self {
        Self::try_new(admin, &[]).await.expect("this client may listen")
    }

    /// With these headers; the answer's status when it is an error.
    pub(crate) async fn try_new(
        admin: SocketAddr,
        headers: &[(&str, &str)],
    ) -> Result<Self, StatusCode> {
        let mut request = Request::builder().uri("/events");
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", admin.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let exchange = async {
            let io = TokioIo::new(TcpStream::connect(admin).await.unwrap());
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            drop(tokio::spawn(connection));
            sender.send_request(request).await.unwrap()
        };
        let response = timeout(FOREVER, exchange).await.expect("an answer in time");
        if response.status() != StatusCode::OK {
            return Err(response.status());
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self { body: response.into_body(), text: String::new() })
    }

    /// The next event: its name and its data.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        timeout(FOREVER, self.event()).await.expect("an event in time")
    }

    /// The data of the next event of this name; others are passed over.
    pub(crate) async fn next_of(&mut self, name: &str) -> Value {
        let find = async {
            loop {
                let (next, data) = self.event().await;
                if next == name {
                    return data;
                }
            }
        };
        timeout(FOREVER, find)
            .await
            .unwrap_or_else(|_| panic!("{name} receives the signal in time"))
    }

    /// Waits for the end of the stream, which must be a clean one.
    pub(crate) async fn end(mut self) {
        let end = async { while self.read().await {} };
        timeout(FOREVER, end).await.expect("the stream ends in time");
    }

    async fn event(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let lines = event.lines();
                    lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).next()
                };
                let named = field("event").map(str::to_owned);
                let data = field("data").map(|data| serde_json::from_str(data).unwrap());
                self.text = rest.to_owned();
                match (named, data) {
                    (Some(name), Some(data)) => return (name, data),
                    // A comment, which says only that the stream goes on.
                    _ => continue,
                }
            }
            assert!(self.read().await, "the events go on");
        }
    }

    async fn read(&mut self) -> bool {
        let Some(frame) = self.body.frame().await else {
            return false;
        };
        let bytes = frame.expect("the stream does not break").into_data().unwrap();
        self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        true
    }
}
