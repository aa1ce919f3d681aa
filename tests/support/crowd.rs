//! Clients with cookies that send all the time, and the result of every request.

#![allow(dead_code)] // Each program uses its part of it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::kept_connection::KeptConnection;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One request, and its answer.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// Unique among all requests.
    pub(crate) number: usize,
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    /// `None` when the connection failed.
    pub(crate) status: Option<StatusCode>,
    /// The backend that answered, if any.
    pub(crate) server: Option<String>,
}

impl Exchange {
    /// Whether a backend has executed it.
    pub(crate) fn is_answered(&self) -> bool {
        self.status == Some(StatusCode::OK) && self.server.is_some()
    }
}

/// Lets clients send until it is over; each has one session, alternates the methods and does not
/// pause. Returns the requests of each session, in order.
pub(crate) async fn ask(
    proxy: SocketAddr,
    clients: usize,
    methods: &[Method],
    over: Arc<AtomicBool>,
) -> Vec<Vec<Exchange>> {
    ask_every(Duration::ZERO, proxy, clients, methods, over).await
}

/// The same, but each client sends once per interval, or as soon after it as the last response arrives.
pub(crate) async fn ask_every(
    interval: Duration,
    proxy: SocketAddr,
    clients: usize,
    methods: &[Method],
    over: Arc<AtomicBool>,
) -> Vec<Vec<Exchange>> {
    let mut tasks = JoinSet::new();
    for number in 0..clients {
        let (methods, over) = (methods.to_vec(), over.clone());
        // Not all at the same time.
        let begin = Instant::now() + interval * number as u32 / clients as u32;
        tasks.spawn(async move {
            let (mut client, mut all) = (Client::new(proxy), Vec::new());
            let mut due = begin;
            for method in methods.iter().cycle() {
                if !interval.is_zero() {
                    sleep_until(due).await;
                    due = (due + interval).max(Instant::now());
                }
                all.push(client.ask(method).await);
                if over.load(Relaxed) {
                    break;
                }
            }
            all
        });
    }
    tasks.join_all().await
}

/// A connection that is kept, and a cookie jar.
struct Client {
    proxy: SocketAddr,
    connection: Option<KeptConnection>,
    jar: BTreeMap<String, String>,
}

impl Client {
    fn new(proxy: SocketAddr) -> Self {
        Self { proxy, connection: None, jar: BTreeMap::new() }
    }

    async fn ask(&mut self, method: &Method) -> Exchange {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let sent = Instant::now();
        let answer = self.send(method, number).await.ok();
        let ended = Instant::now();
        let server = answer.as_ref().and_then(|(_, headers)| headers.get("x-server"));
        Exchange {
            number,
            sent,
            ended,
            server: server.and_then(|name| name.to_str().ok()).map(str::to_owned),
            status: answer.map(|(status, _)| status),
        }
    }

    async fn send(
        &mut self,
        method: &Method,
        number: usize,
    ) -> Result<(StatusCode, HeaderMap), Failure> {
        let mut request = Request::builder()
            .method(method)
            .header(header::HOST, self.proxy.to_string())
            .header("x-number", number);
        if !self.jar.is_empty() {
            let cookies: Vec<_> = self.jar.iter().map(|(n, v)| format!("{n}={v}")).collect();
            request = request.header(header::COOKIE, cookies.join("; "));
        }
        let body = if *method == Method::POST { "something" } else { "" };
        let mut connection = match KeptConnection::take_ready(&mut self.connection).await {
            Some(connection) => connection,
            None => KeptConnection::open(self.proxy).await?,
        };
        let response = connection.send(request.body(Full::from(body))?).await?;
        let (parts, body) = response.into_parts();
        connection.read(body).await?;
        if connection.is_kept().await {
            self.connection = Some(connection);
        }
        for cookie in parts.headers.get_all(header::SET_COOKIE) {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok((parts.status, parts.headers))
    }
}
