//! Sends requests, and keeps what the responses say.

use std::convert::Infallible;

use http::{HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use tokio::task::JoinHandle;
use tower::{Service, ServiceExt};
use tower_sticky::{Outcome, Reason, StickyService, Verdict};

use super::{Body, Node, get};

/// A response, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub headers: http::HeaderMap,
    pub outcome: Option<Outcome>,
}

impl Answer {
    pub fn set_cookies(&self) -> Vec<&str> {
        let fields = self.headers.get_all(header::SET_COOKIE).iter();
        fields.map(|field| field.to_str().unwrap()).collect()
    }

    /// The value of the cookie `sid` that the response sets.
    pub fn token(&self) -> Option<String> {
        let field = self.set_cookies().into_iter().find(|field| field.starts_with("sid="))?;
        Some(field["sid=".len()..].split(';').next().unwrap().to_owned())
    }

    pub fn owned_decision(&self) -> (Verdict, Option<String>, Option<Reason>) {
        let (verdict, backend, reason) = self.decision();
        (verdict, backend.map(str::to_owned), reason)
    }

    /// The verdict, the backend and the reason of the outcome.
    pub fn decision(&self) -> (Verdict, Option<&str>, Option<Reason>) {
        let outcome = self.outcome.as_ref().expect("the response has an outcome");
        (outcome.verdict(), outcome.backend().map(|id| id.as_str()), outcome.reason())
    }
}

/// Sends one request through a clone of the service, as a server does.
pub async fn send<S, B>(service: &S, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    let response = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer {
        status: parts.status.as_u16(),
        body: String::from_utf8(body.to_vec()).unwrap(),
        outcome: Outcome::of(&parts.extensions).cloned(),
        headers: parts.headers,
    }
}

/// A client that keeps the cookie `sid`.
#[derive(Debug, Default, Clone)]
pub struct Client {
    pub token: Option<String>,
}

impl Client {
    /// A client with a session that one request has begun.
    pub async fn assigned<S, B>(service: &S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
        B: http_body::Body<Data = bytes::Bytes>,
        B::Error: std::fmt::Debug,
    {
        let mut client = Self::default();
        client.send(service, get()).await;
        client
    }

    /// Sends one request of the session in a task of its own; this client keeps its token.
    pub fn spawn(
        &self,
        service: &StickyService<Node>,
        request: Request<Body>,
    ) -> JoinHandle<Answer> {
        let (service, mut client) = (service.clone(), self.clone());
        tokio::spawn(async move { client.send(&service, request).await })
    }

    pub async fn send<S, B>(&mut self, service: &S, mut request: Request<Body>) -> Answer
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible> + Clone,
        B: http_body::Body<Data = bytes::Bytes>,
        B::Error: std::fmt::Debug,
    {
        if let Some(token) = &self.token {
            let cookie = HeaderValue::try_from(format!("sid={token}")).unwrap();
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let answer = send(service, request).await;
        if let Some(token) = answer.token() {
            self.token = Some(token);
        }
        answer
    }
}

/// Sends one request in a task of its own.
pub fn spawn(service: &StickyService<Node>, request: Request<Body>) -> JoinHandle<Answer> {
    let service = service.clone();
    tokio::spawn(async move { send(&service, request).await })
}
