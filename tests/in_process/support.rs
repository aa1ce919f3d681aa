//! Backends that do as they are told, and a client with a cookie jar.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI32, AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower::{BoxError, Service, ServiceExt};
use tower_sticky::{
    Backends, Cause, Disconnected, Event, Events, Key, KeyRing, NotSent, Outcome, Reason, State,
    StickyLayer, Unanswered, Verdict, WallClock, affinity::Cookie,
};

pub type Body = http_body_util::Full<bytes::Bytes>;

/// A backend whose readiness and answers a test decides. Clones share everything but the readiness
/// that one of them has been told.
#[derive(Debug)]
pub struct Node {
    pub name: &'static str,
    pub told: Arc<Told>,
    /// Whether this very instance was told that it is ready.
    ready: bool,
}

#[derive(Debug)]
pub struct Told {
    /// `poll_ready` is pending.
    pub busy: AtomicBool,
    /// `poll_ready` fails.
    pub failed: AtomicBool,
    /// The connection is refused: the request comes back.
    pub refuses: AtomicBool,
    /// The connection is accepted, and closed before the request is sent.
    pub closes: AtomicBool,
    /// This machine has no socket left: the number of the error, or 0.
    pub short: AtomicI32,
    /// Whoever is refused is told how to redial.
    pub redialable: AtomicBool,
    /// Redials do not come to an end.
    pub redials_hang: AtomicBool,
    /// Times that it was redialed.
    pub redialed: AtomicUsize,
    /// The same, once there is a permit of the gate: the connection takes its time.
    pub refuses_later: AtomicBool,
    /// The connection ends before an answer: the request comes back, maybe executed.
    pub hangs_up: AtomicBool,
    /// The call fails otherwise.
    pub breaks: AtomicBool,
    /// The status of the answers.
    pub status: AtomicU16,
    /// Requests that were executed.
    pub served: AtomicUsize,
    /// Times that `poll_ready` was asked.
    pub polled: AtomicUsize,
    /// Clones that are alive.
    pub alive: AtomicUsize,
    /// `Cookie` headers that came.
    pub cookies: Mutex<Vec<String>>,
    /// Outcomes that came with the requests.
    pub outcomes: Mutex<Vec<Option<Outcome>>>,
    /// Headers that came.
    pub headers: Mutex<Vec<HeaderMap>>,
    /// Headers to answer with.
    pub answers: Mutex<Vec<(&'static str, String)>>,
    /// What to say of the session, in the response's extensions.
    pub word: Mutex<Option<tower_sticky::SessionAction>>,
    /// Answers wait for a permit of it.
    pub gate: Semaphore,
    waiters: Mutex<Vec<Waker>>,
}

pub const UNGATED: usize = 1 << 20;

impl Node {
    pub fn new(name: &'static str) -> Self {
        let told = Told {
            busy: false.into(),
            failed: false.into(),
            refuses: false.into(),
            closes: false.into(),
            short: 0.into(),
            redialable: false.into(),
            redials_hang: false.into(),
            redialed: 0.into(),
            refuses_later: false.into(),
            hangs_up: false.into(),
            breaks: false.into(),
            status: 200.into(),
            served: 0.into(),
            polled: 0.into(),
            alive: 1.into(),
            cookies: Mutex::default(),
            outcomes: Mutex::default(),
            headers: Mutex::default(),
            answers: Mutex::default(),
            word: Mutex::default(),
            gate: Semaphore::new(UNGATED),
            waiters: Mutex::default(),
        };
        Self { name, told: Arc::new(told), ready: false }
    }

    pub fn served(&self) -> usize {
        self.told.served.load(SeqCst)
    }
}

impl Told {
    /// The error of a refused connection.
    fn refuse(self: &Arc<Self>, request: Request<Body>) -> BoxError {
        let not_sent = NotSent::new(request, "connection refused");
        if !self.redialable.load(SeqCst) {
            return not_sent.into();
        }
        let told = self.clone();
        not_sent.with_redial(move || told.clone().redial()).into()
    }

    async fn redial(self: Arc<Self>) -> Result<(), BoxError> {
        self.redialed.fetch_add(1, SeqCst);
        while self.redials_hang.load(SeqCst) {
            after(10).await;
        }
        match self.short.load(SeqCst) {
            0 if self.refuses.load(SeqCst) => Err("refused again".into()),
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error).into()),
        }
    }

    pub fn set_busy(&self, busy: bool) {
        self.busy.store(busy, SeqCst);
        for waker in self.waiters.lock().unwrap().drain(..) {
            waker.wake();
        }
    }
}

impl Clone for Node {
    fn clone(&self) -> Self {
        self.told.alive.fetch_add(1, SeqCst);
        // A clone knows nothing of the readiness of the original.
        Self { name: self.name, told: self.told.clone(), ready: false }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.told.alive.fetch_sub(1, SeqCst);
    }
}

impl Service<Request<Body>> for Node {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.told.polled.fetch_add(1, SeqCst);
        if self.told.failed.load(SeqCst) {
            return Poll::Ready(Err("the worker is gone".into()));
        }
        if self.told.busy.load(SeqCst) {
            self.told.waiters.lock().unwrap().push(cx.waker().clone());
            return Poll::Pending;
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(self.ready, "the instance that is called must be the one that said it was ready");
        self.ready = false;
        let (told, name) = (self.told.clone(), self.name);
        Box::pin(async move {
            if told.short.load(SeqCst) != 0 {
                let error = io::Error::from_raw_os_error(told.short.load(SeqCst));
                return Err(NotSent::new(request, error).into());
            }
            if told.refuses.load(SeqCst) {
                return Err(told.refuse(request));
            }
            if told.closes.load(SeqCst) {
                let told = told.clone();
                let closed = Disconnected::new("closed at once");
                let closed = closed.with_redial(move || told.clone().redial());
                return Err(NotSent::new(request, closed).into());
            }
            if told.refuses_later.load(SeqCst) {
                told.gate.acquire().await?.forget();
                told.gate.add_permits(1);
                return Err(told.refuse(request));
            }
            if told.hangs_up.load(SeqCst) {
                told.served.fetch_add(1, SeqCst);
                let mut closed = Disconnected::new("connection closed");
                if told.redialable.load(SeqCst) {
                    let told = told.clone();
                    closed = closed.with_redial(move || told.clone().redial());
                }
                return Err(Unanswered::new(request, closed).into());
            }
            if told.breaks.load(SeqCst) {
                return Err("garbage".into());
            }
            let cookies = request.headers().get_all(header::COOKIE).iter();
            let cookies: Vec<_> = cookies.map(|c| c.to_str().unwrap().to_owned()).collect();
            told.cookies.lock().unwrap().push(cookies.join("|"));
            told.headers.lock().unwrap().push(request.headers().clone());
            let outcome = Outcome::of(request.extensions()).cloned();
            told.outcomes.lock().unwrap().push(outcome);
            told.gate.acquire().await?.forget();
            told.gate.add_permits(1);
            told.served.fetch_add(1, SeqCst);
            let body = request.into_body().collect().await?.to_bytes();
            let mut response = Response::new(Body::from([name.as_bytes(), &body].concat()));
            *response.status_mut() = told.status.load(SeqCst).try_into()?;
            for (name, value) in told.answers.lock().unwrap().iter() {
                response.headers_mut().append(*name, value.parse()?);
            }
            if let Some(word) = told.word.lock().unwrap().clone() {
                response.extensions_mut().insert(word);
            }
            Ok(response)
        })
    }
}

/// Lets `millis` of paused time go by.
pub async fn after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Waits, in paused time, until a backend is so.
pub async fn until(backends: &Backends<Node>, id: &str, state: State) {
    for _ in 0..10_000 {
        if backends.get(id).unwrap().state == state {
            return;
        }
        after(10).await;
    }
    panic!("in 100 s {id} did not become {state}");
}

/// The changes of health that have happened since the last time: who, to what, and why.
pub async fn health_changes(events: &mut Events) -> Vec<(String, State, Cause)> {
    let mut changes = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        if let Event::State { backend, to, cause, .. } = event {
            changes.push((backend.to_string(), to, cause));
        }
    }
    changes
}

/// A wall clock that a test sets.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Mutex<u64>>);

impl Clock {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(1_800_000_000)))
    }

    pub fn advance(&self, seconds: i64) {
        let mut now = self.0.lock().unwrap();
        *now = now.checked_add_signed(seconds).unwrap();
    }
}

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(*self.0.lock().unwrap())
    }
}

/// A pool of nodes with these names, and the nodes.
pub fn nodes<const N: usize>(names: [&'static str; N]) -> (Backends<Node>, [Node; N]) {
    let nodes = names.map(Node::new);
    (Backends::from_iter(nodes.iter().map(|node| (node.name, node.clone()))), nodes)
}

pub fn keys() -> KeyRing {
    KeyRing::new([Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()]).unwrap()
}

pub fn plain(backends: &Backends<Node>) -> StickyLayer<Node> {
    let strategy = tower_sticky::strategy::RoundRobin::new();
    StickyLayer::new(backends.clone(), Cookie::plain("sid"))
        .strategy(strategy)
        .outcome_extensions(true)
}

pub fn sealed(backends: &Backends<Node>) -> StickyLayer<Node> {
    let strategy = tower_sticky::strategy::RoundRobin::new();
    StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys()))
        .strategy(strategy)
        .outcome_extensions(true)
}

pub fn get() -> Request<Body> {
    Request::new(Body::default())
}

pub fn with_cookie(cookie: &str) -> Request<Body> {
    let mut request = get();
    request.headers_mut().insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
    request
}

/// What came back.
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

    pub fn why_owned(&self) -> (Verdict, Option<String>, Option<Reason>) {
        let (verdict, backend, reason) = self.why();
        (verdict, backend.map(str::to_owned), reason)
    }

    /// Verdict, backend and reason in one line.
    pub fn why(&self) -> (Verdict, Option<&str>, Option<Reason>) {
        let outcome = self.outcome.as_ref().expect("every answer has an outcome");
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
