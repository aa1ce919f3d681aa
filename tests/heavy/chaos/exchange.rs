//! A request and its response, and a client with a session.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::time::{Instant, timeout};
use tower_sticky_heavy_tests::{FOREVER, client::Client};

use crate::{kind::Kind, random::Random, timeline::NAMES};

/// How often a response is delayed a little, so that requests are always in flight.
const SLOW: u64 = 5;

#[derive(Debug, Clone)]
pub struct Exchange {
    pub number: usize,
    pub method: Method,
    pub sent: Instant,
    pub ended: Instant,
    /// Whether the client had a token, a key or an id.
    pub has_session: bool,
    /// The node that received the request.
    pub asked: usize,
    /// The outcome and the backend that the gateway reports.
    pub outcome: String,
    /// The status, and the backend if one answered; or the error of the connection.
    pub answer: Result<(StatusCode, Option<usize>), String>,
}

impl Exchange {
    /// The backend that answered, if any.
    pub fn server(&self) -> Option<usize> {
        self.answer.as_ref().ok()?.1
    }

    pub fn may_be_repeated(&self) -> bool {
        self.method != Method::POST
    }
}

/// A client without its connection: its cookies, and the state of its random generator.
pub struct Visitor {
    kind: Kind,
    jar: BTreeMap<String, String>,
    token: Option<String>,
    /// The path of a resource that the application has created.
    path: Option<String>,
    pub user: String,
    pub random: Random,
}

impl Visitor {
    pub fn new(kind: Kind, mut random: Random) -> Self {
        let mut user = format!("user-{:x}", random.next());
        if kind == Kind::Route {
            let home = NAMES[random.among(0..NAMES.len() as u64) as usize];
            user = format!("{user}.{home}");
        }
        Self { kind, jar: BTreeMap::new(), token: None, path: None, user, random }
    }

    /// A client with this key.
    pub fn named(kind: Kind, user: &str, random: Random) -> Self {
        Self { user: user.to_owned(), ..Self::new(kind, random) }
    }

    /// Sends a request: half of them are GETs, some are POSTs with a number.
    pub async fn ask(&mut self, client: &mut Client, asked: usize) -> Exchange {
        let method = match self.random.among(0..16) {
            0 => Method::HEAD,
            1 => Method::OPTIONS,
            2 => Method::PUT,
            3 => Method::DELETE,
            4..8 => Method::POST,
            _ => Method::GET,
        };
        self.ask_with(method, client, asked).await
    }

    pub async fn ask_with(
        &mut self,
        method: Method,
        client: &mut Client,
        asked: usize,
    ) -> Exchange {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let request = self.request(&method, number);
        let has_session = self.has_session();
        let sent = Instant::now();
        let response = match timeout(FOREVER, client.send(request)).await {
            Ok(response) => response,
            Err(_) => panic!("no answer comes to request {number}, {method}: {client}"),
        };
        let ended = Instant::now();
        let mut outcome = String::new();
        let answer = match response {
            Ok(response) => {
                let headers = response.headers();
                self.remember(headers);
                outcome = text(headers, "server-timing").to_owned();
                let server = text(headers, "x-server");
                Ok((response.status(), NAMES.iter().position(|name| *name == server)))
            }
            Err(error) => Err(error.to_string()),
        };
        Exchange { number, method, sent, ended, has_session, asked, outcome, answer }
    }

    fn has_session(&self) -> bool {
        match self.kind {
            Kind::Header => self.token.is_some(),
            Kind::Key | Kind::Route => true,
            Kind::Location => self.path.is_some(),
            _ => !self.jar.is_empty(),
        }
    }

    fn request(&mut self, method: &Method, number: usize) -> Request<Full<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(self.path.as_deref().unwrap_or("/files/"))
            .header("x-number", number);
        if self.random.among(0..SLOW) == 0 {
            request = request.header("x-delay", self.random.among(10..100));
        }
        match (&self.kind, &self.token) {
            (Kind::Header, Some(token)) => request = request.header("x-sticky", token),
            (Kind::Key | Kind::Route, _) => request = request.header("x-user", &self.user),
            _ => {}
        }
        if !self.jar.is_empty() {
            let cookies: Vec<_> = self.jar.iter().map(|(n, v)| format!("{n}={v}")).collect();
            request = request.header(header::COOKIE, cookies.join("; "));
        } else if self.kind.needs_login() && self.path.is_none() {
            request = request.header("x-login", "1");
        }
        let body = if *method == Method::POST { "something" } else { "" };
        request.body(body.into()).unwrap()
    }

    fn remember(&mut self, headers: &HeaderMap) {
        if let Some(token) = headers.get("x-sticky") {
            self.token = Some(token.to_str().unwrap().to_owned());
        }
        if self.kind == Kind::Location
            && let Some(location) = headers.get(header::LOCATION)
        {
            self.path = Some(location.to_str().unwrap().to_owned());
        }
        for cookie in
            headers.get_all(header::SET_COOKIE).iter().filter(|_| self.kind != Kind::Location)
        {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.jar.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}
