//! A client with a connection and a cookie.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use tower_sticky::BoxError;
use tower_sticky_heavy_tests::{
    client::{Client, cookie},
    gateway::{NUMBER, REASON, VERDICT},
    in_time,
};

pub const SERVER: &str = "x-server";
/// The request header that names a backend which must not answer.
pub const HOLD: &str = "x-hold";

/// A unique number of a request. Even numbers are of requests that must not be retried.
pub fn number(method: &Method) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    2 * NEXT.fetch_add(1, Relaxed) + usize::from(may_be_repeated(method))
}

fn may_be_repeated(method: &Method) -> bool {
    *method == Method::GET
}

/// A session: a connection to the gateway, and its cookie.
pub struct Session {
    client: Client,
    pub token: Option<String>,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub number: usize,
    pub status: StatusCode,
    pub server: String,
    pub verdict: String,
    pub reason: String,
    pub token: Option<String>,
    pub body: Bytes,
}

impl Answer {
    pub fn why(&self) -> (&str, &str, &str) {
        (&self.verdict, &self.server, &self.reason)
    }
}

impl Session {
    pub fn new(gateway: SocketAddr) -> Self {
        Self { client: Client::new(gateway), token: None }
    }

    /// Another client of the same session.
    pub fn beside(&self, gateway: SocketAddr) -> Self {
        Self { client: Client::new(gateway), token: self.token.clone() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        self.send(Request::get(path), "").await.unwrap()
    }

    /// Sends a body and checks its echo.
    pub async fn post(&mut self, body: impl Into<Bytes>) -> Answer {
        let body = body.into();
        let answer = self.send(Request::post("/"), body.clone()).await.unwrap();
        assert!(answer.status != 200 || answer.body == body, "the body comes back");
        answer
    }

    pub async fn send(
        &mut self,
        request: http::request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<Answer, BoxError> {
        let mut request = request.body(Full::new(body.into()))?;
        let number = number(request.method());
        request.headers_mut().insert(NUMBER, number.into());
        self.send_numbered(request, number).await
    }

    pub async fn send_numbered(
        &mut self,
        mut request: Request<Full<Bytes>>,
        number: usize,
    ) -> Result<Answer, BoxError> {
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::COOKIE, format!("sid={token}").try_into()?);
        }
        let response = in_time("an answer comes", self.client.send(request)).await?;
        let text = |name| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let token = cookie(&response, "sid");
        if token.is_some() {
            self.token.clone_from(&token);
        }
        Ok(Answer {
            number,
            status: response.status(),
            server: text(SERVER),
            verdict: text(VERDICT),
            reason: text(REASON),
            token,
            body: response.into_body(),
        })
    }
}
