//! Concurrent traffic of many sessions, and a record of every request.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use tokio::sync::watch;
use tower_sticky_heavy_tests::{
    client::{Client, cookie},
    gateway::{Gateway, NUMBER, REASON, VERDICT},
    in_time, until,
};

use crate::backend::SERVER;

pub const SESSIONS: usize = 32;
const AT_ONCE: usize = 16;
/// The number of consecutive requests of one session, so that some of them are concurrent.
const BURST: usize = 4;

/// The result of one request.
#[derive(Debug, Clone)]
pub struct Record {
    pub number: usize,
    pub session: usize,
    pub method: Method,
    /// The server that answered, or what went wrong.
    pub result: Result<String, String>,
    pub verdict: String,
    pub reason: Option<String>,
}

pub struct Traffic {
    gateway: Gateway,
    /// The cookie jars.
    jars: Vec<Mutex<Option<String>>>,
    /// The number of the next request; it only starts when it is allowed.
    next: AtomicUsize,
    allowed: watch::Sender<usize>,
    ended: Vec<AtomicBool>,
    ended_count: AtomicUsize,
    records: Mutex<Vec<Record>>,
    total: usize,
}

impl Traffic {
    /// Traffic of `total` requests, of which none starts yet.
    pub fn new(gateway: Gateway, total: usize) -> Arc<Self> {
        Arc::new(Self {
            gateway,
            jars: (0..SESSIONS).map(|_| Mutex::default()).collect(),
            next: AtomicUsize::new(0),
            allowed: watch::Sender::new(0),
            ended: (0..total).map(|_| AtomicBool::new(false)).collect(),
            ended_count: AtomicUsize::new(0),
            records: Mutex::default(),
            total,
        })
    }

    /// Begins every session with one request, and then starts the clients.
    pub async fn start(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let mut client = Client::new(self.gateway.addr);
        for session in 0..SESSIONS {
            let number = self.next.fetch_add(1, SeqCst);
            self.request(&mut client, number, session).await;
        }
        let clients = (0..AT_ONCE).map(|_| {
            let traffic = self.clone();
            tokio::spawn(async move { traffic.run().await })
        });
        clients.collect()
    }

    async fn run(&self) {
        let mut client = Client::new(self.gateway.addr);
        let mut allowed = self.allowed.subscribe();
        loop {
            let number = self.next.fetch_add(1, SeqCst);
            if number >= self.total {
                return;
            }
            allowed.wait_for(|allowed| number < *allowed).await.unwrap();
            self.request(&mut client, number, number / BURST % SESSIONS).await;
        }
    }

    async fn request(&self, client: &mut Client, number: usize, session: usize) {
        let body = if number.is_multiple_of(3) { body(number) } else { Bytes::new() };
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let mut request = Request::builder().method(method.clone()).header(NUMBER, number);
        if let Some(token) = &*self.jars[session].lock().unwrap() {
            request = request.header(header::COOKIE, format!("x=1; sid={token}; y=2"));
        }
        let sent = client.send(request.body(Full::new(body.clone())).unwrap());
        let mut record = Record {
            number,
            session,
            method,
            result: Err(String::new()),
            verdict: String::new(),
            reason: None,
        };
        match in_time("a request has an answer", sent).await {
            Ok(response) => {
                if let Some(token) = cookie(&response, "sid") {
                    *self.jars[session].lock().unwrap() = Some(token);
                }
                let text =
                    |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
                record.verdict = text(VERDICT).unwrap_or_default();
                record.reason = text(REASON);
                record.result = match text(SERVER) {
                    Some(server) if response.status() == 200 && *response.body() == body => {
                        Ok(server)
                    }
                    server => Err(format!(
                        "{} of {server:?} with {} bytes for {}",
                        response.status(),
                        response.body().len(),
                        body.len()
                    )),
                };
            }
            Err(error) => record.result = Err(error.to_string()),
        }
        self.records.lock().unwrap().push(record);
        self.ended[number].store(true, SeqCst);
        self.ended_count.fetch_add(1, SeqCst);
    }

    pub fn addr(&self) -> std::net::SocketAddr {
        self.gateway.addr
    }

    /// The cookie of a session.
    pub fn token(&self, session: usize) -> Option<String> {
        self.jars[session].lock().unwrap().clone()
    }

    /// Lets requests up to this number start.
    pub fn allow(&self, number: usize) {
        self.allowed.send_replace(number);
    }

    /// Waits until so many requests have ended.
    pub async fn ended(&self, count: usize) {
        until("so many requests end", || self.ended_count.load(SeqCst) >= count).await;
    }

    /// The number from which on all requests start later than now.
    pub fn now(&self) -> usize {
        self.next.load(SeqCst).min(self.total)
    }

    /// Waits until all requests before this number have ended, if they may start at all.
    pub async fn ended_before(&self, number: usize) {
        let number = number.min(*self.allowed.borrow());
        let all = || self.ended[..number].iter().all(|ended| ended.load(SeqCst));
        until("all older requests end", all).await;
    }

    pub fn records(&self) -> Vec<Record> {
        self.records.lock().unwrap().clone()
    }

    /// Whether a backend got something of this request, as far as the gateway can know.
    pub fn was_on_its_way(&self, number: usize) -> bool {
        self.gateway.on_their_way.lock().unwrap().contains(&number)
    }
}

/// Of all lengths up to some that do not fit into one packet.
fn body(number: usize) -> Bytes {
    let length = 1 + number * 7919 % 20_000;
    Bytes::from_iter((0..length).map(|i| (i + number) as u8))
}

/// The servers that answered each session, of these requests.
pub fn servers_of_sessions<'a>(
    records: impl IntoIterator<Item = &'a Record>,
) -> BTreeMap<usize, BTreeSet<String>> {
    let mut servers = BTreeMap::<usize, BTreeSet<String>>::new();
    for record in records {
        if let Ok(server) = &record.result {
            servers.entry(record.session).or_default().insert(server.clone());
        }
    }
    servers
}
