//! Cancellation: a request is dropped after any number of polls, and leaves nothing behind.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use tokio::task::yield_now;
use tower::{BoxError, Service, ServiceExt};
use tower_sticky::{
    Backends, KeyRing, NotSent, Outcome, Rebalance, StickyLayer, StickyService, Verdict, WallClock,
    affinity::{Cookie, Learned},
    store::{Answer, Lookup, MemoryStore, OpenSession, PinStore, SessionKey, StoredPin},
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::client::cookie;

use crate::alone::alone_in_paused_time;

type Body = UnsyncBoxBody<Bytes, Infallible>;

const STEP: Duration = Duration::from_millis(10);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// A body whose three frames are each pending first.
fn body(piece: &'static str) -> Body {
    let pieces = stream::unfold(0, move |sent| async move {
        yield_now().await;
        (sent < 3).then(|| (Ok(Frame::data(Bytes::from(piece))), sent + 1))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// A backend whose readiness, response and body are each pending first.
struct Node {
    name: &'static str,
    told: Arc<Told>,
}

#[derive(Default)]
struct Told {
    busy: AtomicBool,
    refuses: AtomicBool,
    executed: AtomicUsize,
    clones: AtomicUsize,
}

impl Clone for Node {
    fn clone(&self) -> Self {
        self.told.clones.fetch_add(1, SeqCst);
        Self { name: self.name, told: self.told.clone() }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.told.clones.fetch_sub(1, SeqCst);
    }
}

impl Node {
    fn new(name: &'static str) -> Self {
        Self { name, told: Arc::new(Told { clones: 1.into(), ..Told::default() }) }
    }
}

impl Service<Request<Body>> for Node {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.told.busy.load(SeqCst) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (name, told) = (self.name, self.told.clone());
        Box::pin(async move {
            yield_now().await;
            if told.refuses.load(SeqCst) {
                return Err(NotSent::new(request, "connection refused").into());
            }
            told.executed.fetch_add(1, SeqCst);
            let got = request.into_body().collect().await?.to_bytes();
            assert_eq!(got, "in in in ", "the request's body is complete after a refusal");
            yield_now().await;
            Ok(Response::new(body(name)))
        })
    }
}

#[derive(Debug, Clone)]
struct Clock(Arc<Mutex<SystemTime>>);

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

/// A store whose calls are pending first.
#[derive(Debug)]
struct Slow(MemoryStore);

impl PinStore for Slow {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        let table = self.0.clone();
        Lookup::Later(Box::pin(async move {
            yield_now().await;
            match table.get(key, idle) {
                Lookup::Now(answer) => answer,
                Lookup::Later(_) => Answer::Nothing,
            }
        }))
    }

    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
        self.0.put(key, pin, idle)
    }

    fn remove(&self, key: SessionKey) {
        self.0.remove(key);
    }
}

/// The situations in which a request is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    New,
    Pinned,
    /// Its backend is busy for some time.
    Busy,
    /// Its backend stays busy, and another one is borrowed.
    Borrowed,
    /// Its backend is at its limit for some time.
    Limit,
    /// Its backend refuses, and another one takes it.
    Refused,
    /// Its backend is a suspect, and the request is the trial.
    Trial,
    /// Its session is about to move, and the handoff hook runs.
    HandOver,
    /// Its session is looked up in a store.
    LookUp,
}

const CASES: [Case; 9] = [
    Case::New,
    Case::Pinned,
    Case::Busy,
    Case::Borrowed,
    Case::Limit,
    Case::Refused,
    Case::Trial,
    Case::HandOver,
    Case::LookUp,
];

struct Scene {
    backends: Backends<Node>,
    service: StickyService<Node>,
    a: Arc<Told>,
    b: Arc<Told>,
    cookie: Option<String>,
    /// A request that has the only permit.
    holder: Option<Response<Body>>,
}

fn request(cookie: Option<&str>) -> Request<Body> {
    let mut request = Request::new(body("in "));
    if let Some(cookie) = cookie {
        request.headers_mut().insert(header::COOKIE, cookie.try_into().unwrap());
    }
    request
}

type Sent = Response<tower_sticky::StickyBody<Body>>;

async fn send(service: &StickyService<Node>, cookie: Option<&str>) -> Sent {
    service.clone().oneshot(request(cookie)).await.unwrap()
}

/// The service with the affinity, the store and the handoff hook of the case.
fn service(case: Case, backends: Backends<Node>, clock: Clock) -> StickyService<Node> {
    let layer = if case == Case::LookUp {
        let store = Slow(MemoryStore::new(100));
        StickyLayer::new(backends, Learned::cookie("sid").store(store))
    } else {
        let keys = KeyRing::generate().unwrap();
        StickyLayer::new(backends, Cookie::sealed("sid", keys).idle_timeout(100 * HOUR))
    };
    let carry = |_| async {
        for _ in 0..3 {
            yield_now().await;
        }
        Ok::<_, BoxError>(())
    };
    let mut layer = layer.strategy(RoundRobin::new()).clock(clock).outcome_extensions(true);
    if case == Case::HandOver {
        let rebalance = Rebalance::new().idle_for(2 * SECOND);
        layer = layer.before_move(SECOND, carry).rebalance(rebalance).unwrap();
    }
    layer.into_service()
}

impl Scene {
    /// Prepares the case, with a session on `a`.
    async fn new(case: Case) -> Self {
        let [a, b] = ["a", "b"].map(Node::new);
        let backends = Backends::from_iter([("a", a.clone())]);
        let clock = Clock(Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + 1_000_000 * HOUR)));
        let mut scene = Self {
            backends: backends.clone(),
            service: service(case, backends.clone(), clock.clone()),
            a: a.told.clone(),
            b: b.told.clone(),
            cookie: None,
            holder: None,
        };
        // More than one session, so that the load can be uneven.
        for _ in 0..20 {
            scene.begin_session(case).await;
        }
        backends.insert("b", b.clone()).unwrap();
        scene.enter(case, &clock).await;
        scene
    }

    /// Begins a session, and keeps its cookie.
    async fn begin_session(&mut self, case: Case) {
        let known = (case == Case::LookUp).then_some("sid=an-id-of-the-application");
        let response = send(&self.service, known).await;
        self.cookie = match cookie(&response, "sid") {
            Some(token) => Some(format!("sid={token}")),
            None => known.map(str::to_owned),
        };
        response.into_body().collect().await.unwrap();
        // It counts as a session once its token has returned.
        let again = send(&self.service, self.cookie.as_deref()).await;
        again.into_body().collect().await.unwrap();
    }

    /// Brings the backends into the situation of the case.
    async fn enter(&mut self, case: Case, clock: &Clock) {
        match case {
            Case::New => self.cookie = None,
            Case::Pinned | Case::LookUp => {}
            Case::Busy | Case::Borrowed => self.a.busy.store(true, SeqCst),
            Case::Limit => {
                self.backends.set_limit("a", 1).unwrap();
                let holder = send(&self.service, self.cookie.as_deref()).await;
                self.holder =
                    Some(holder.map(|body| body.map_err(|_| unreachable!()).boxed_unsync()));
            }
            Case::Refused => self.a.refuses.store(true, SeqCst),
            Case::Trial => {
                self.a.refuses.store(true, SeqCst);
                send(&self.service, None).await.into_body().collect().await.unwrap();
                send(&self.service, None).await.into_body().collect().await.unwrap();
                self.a.refuses.store(false, SeqCst);
                tokio::time::sleep(Duration::from_millis(1_100)).await;
            }
            Case::HandOver => {
                *clock.0.lock().unwrap() += 3 * SECOND;
                tokio::time::sleep(3 * SECOND).await;
            }
        }
    }

    fn executed(&self) -> usize {
        self.a.executed.load(SeqCst) + self.b.executed.load(SeqCst)
    }

    fn clones(&self) -> [usize; 2] {
        [&self.a, &self.b].map(|told| told.clones.load(SeqCst))
    }

    /// Cancels after some polls. Returns whether the response was complete by then.
    async fn leave_after(&mut self, case: Case, polls: usize) -> bool {
        let service = self.service.clone();
        let request = request(self.cookie.as_deref());
        let mut exchange = Box::pin(async move {
            let response = service.oneshot(request).await.unwrap();
            assert_eq!(response.status(), 200);
            response.into_body().collect().await.unwrap();
        });
        for poll in 0..polls {
            if poll == 4 {
                self.a.busy.store(case == Case::Borrowed, SeqCst);
                self.holder = None;
            }
            if poll_fn(|cx| Poll::Ready(exchange.as_mut().poll(cx).is_ready())).await {
                return true;
            }
            tokio::time::advance(STEP).await;
        }
        false
    }
}

#[test]
fn a_cancelled_request_leaves_nothing_behind() {
    alone_in_paused_time(async {
        for case in CASES {
            let mut polls = 0;
            loop {
                let mut scene = Scene::new(case).await;
                let executed = scene.executed();
                let clones = scene.clones();
                let whole = scene.leave_after(case, polls).await;
                let executions = scene.executed() - executed;
                check(case, polls, scene, clones, executions).await;
                if whole {
                    println!("{case:?}: all of {polls} points at which it can end");
                    break;
                }
                polls += 1;
            }
            let least = match case {
                Case::New | Case::Pinned | Case::Trial => 9,
                Case::Refused | Case::LookUp => 10,
                Case::Busy | Case::Limit | Case::HandOver => 12,
                // 200 ms in steps of 10.
                Case::Borrowed => 28,
            };
            assert!(polls >= least, "{case:?} takes {polls} polls");
        }
    });
}

/// The invariants after a cancellation.
async fn check(case: Case, polls: usize, mut scene: Scene, clones: [usize; 2], executions: usize) {
    let what = format!("{case:?}, after {polls} polls");
    assert!(executions <= 1, "{what}: it was executed {executions} times");
    scene.holder = None;
    scene.a.busy.store(false, SeqCst);
    for backend in scene.backends.iter() {
        let left = (backend.in_flight, backend.waiting, backend.streams);
        assert_eq!(left, (0, 0, 0), "{what}: something is left at {}", backend.id);
    }
    assert_eq!(scene.clones(), clones, "{what}: a service is left");
    // Its permit is free for the next request, also when there is only one.
    for id in ["a", "b"] {
        scene.backends.set_limit(id, 1).unwrap();
    }
    for _ in 0..2 {
        let response = send(&scene.service, scene.cookie.as_deref()).await;
        assert_eq!(response.status(), 200, "{what}");
        let outcome = Outcome::of(response.extensions()).unwrap().clone();
        let backend = outcome.backend().unwrap().as_str();
        match (case, outcome.verdict()) {
            (Case::New, Verdict::Assigned) => {}
            (Case::Refused, Verdict::Moved) => assert_eq!(backend, "b", "{what}"),
            (Case::HandOver, Verdict::Moved) => assert_eq!(backend, "b", "{what}"),
            (Case::New | Case::Refused, _) => panic!("{what}: {outcome}"),
            (_, verdict) => assert_eq!((verdict, backend), (Verdict::Pinned, "a"), "{what}"),
        }
        response.into_body().collect().await.unwrap();
    }
    assert_eq!(scene.backends.snapshot().stats.violations(), 0, "{what}");
}
