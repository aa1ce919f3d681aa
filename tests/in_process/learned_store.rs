//! Learned sessions in a slow or failing store.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_sticky::{
    Preference, Reason, SessionAction, Verdict,
    affinity::{Chain, Cookie, Key, Learned},
    store::{
        Answer, Lookup, MemoryStore, OpenSession, PinStore, RedisStore, SessionKey, StoredPin,
    },
};

use crate::{
    learned::{PINNED, ask, begin, layer, remembering, send_owned, set},
    support::{Clock, get, nodes, send, with_cookie},
};

/// A store that answers when a test permits it.
#[derive(Debug, Clone)]
struct Slow {
    table: MemoryStore,
    gate: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
    epochs: Arc<Mutex<Vec<u64>>>,
}

impl Slow {
    fn new(permits: usize) -> Self {
        Self {
            table: MemoryStore::new(100),
            gate: Arc::new(Semaphore::new(permits)),
            asked: Arc::default(),
            epochs: Arc::default(),
        }
    }
}

impl PinStore for Slow {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        self.asked.fetch_add(1, SeqCst);
        let this = self.clone();
        Lookup::Later(Box::pin(async move {
            if let Ok(permit) = this.gate.acquire().await {
                permit.forget();
            }
            match this.table.get(key, idle) {
                Lookup::Now(answer) => answer,
                Lookup::Later(_) => Answer::Nothing,
            }
        }))
    }

    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
        let copy = StoredPin::from_bytes(&pin.to_bytes()).unwrap();
        assert_eq!(copy, pin);
        self.epochs.lock().unwrap().push(pin.epoch());
        self.table.put(key, copy, idle)
    }

    fn remove(&self, key: SessionKey) {
        self.table.remove(key);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_delays_the_request() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let slow = Slow::new(0);
    let service = remembering(&backends, &slow);
    begin(&service, &b, "1").await;
    assert_eq!(slow.asked.load(SeqCst), 0, "a request without an id makes no lookup");
    let request = tokio::spawn(send_owned(service.clone(), "JSESSIONID=x; JSESSIONID=1".into()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!request.is_finished());
    assert_eq!(slow.asked.load(SeqCst), 1, "one after the other");
    slow.gate.add_permits(2);
    assert_eq!(request.await.unwrap(), "b");
    assert_eq!(slow.asked.load(SeqCst), 2, "each once");
    slow.gate.add_permits(1);
    b.control.refuses.store(true, SeqCst);
    assert_eq!(ask(&service, "1").await, ((Verdict::Moved, Some(Reason::ConnectFailed)), "a"));
    let epochs = slow.epochs.lock().unwrap().clone();
    assert!(epochs[1] > epochs[0], "a move has a greater epoch: {epochs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_store_fails_no_request() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let slow = Slow::new(0);
    let service = remembering(&backends, &slow);
    begin(&service, &b, "1").await;
    let before = tokio::time::Instant::now();
    let answer = send(&service, with_cookie("JSESSIONID=1")).await;
    assert_eq!(answer.decision().0, Verdict::Assigned, "by the rank of its id");
    assert_eq!(before.elapsed(), Duration::from_secs(1), "as long as a request may wait");
    let mut bypass = with_cookie("JSESSIONID=1");
    bypass.extensions_mut().insert(Preference::bypass());
    let asked = slow.asked.load(SeqCst);
    let before = tokio::time::Instant::now();
    send(&service, bypass).await;
    assert_eq!(before.elapsed(), Duration::ZERO, "a bypass does not wait");
    let dropped = tokio::time::timeout(
        Duration::from_millis(10),
        service.clone().oneshot(with_cookie("JSESSIONID=1")),
    );
    assert!(dropped.await.is_err(), "a client may go away meanwhile");
    assert!(slow.asked.load(SeqCst) > asked);
}

#[tokio::test]
async fn a_slow_store_in_a_chain_delays_the_request() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let slow = Slow::new(crate::support::UNGATED);
    let learned = Learned::cookie("JSESSIONID").store(slow.clone());
    let chain = Chain::of(Cookie::plain("sid")).or(learned);
    let service = layer(&backends, chain).into_service();
    send(&service, get()).await;
    set(&b, "JSESSIONID=1");
    assert_eq!(send(&service, get()).await.decision().1, Some("b"));
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    let asked = slow.asked.load(SeqCst);
    assert_eq!(ask(&service, "1; sid=a").await, (PINNED, "a"));
    assert_eq!(slow.asked.load(SeqCst), asked, "the cookie is enough");
}

/// The pin that was known, and the new one.
type Claim = (Option<StoredPin>, StoredPin);

/// A store that records the arguments of its claims.
#[derive(Debug, Clone)]
struct Claims {
    table: MemoryStore,
    claims: Arc<Mutex<Vec<Claim>>>,
    down: Arc<AtomicBool>,
}

impl Claims {
    fn new() -> Self {
        Self { table: MemoryStore::new(100), claims: Arc::default(), down: Arc::default() }
    }

    fn last(&self) -> Claim {
        self.claims.lock().unwrap().pop().expect("there was a claim")
    }
}

impl PinStore for Claims {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        if self.down.load(SeqCst) {
            return Lookup::Later(Box::pin(async { Answer::Unavailable }));
        }
        self.table.get(key, idle)
    }

    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
        self.table.put(key, pin, idle)
    }

    fn claim(
        &self,
        key: SessionKey,
        pin: StoredPin,
        known: Option<StoredPin>,
        idle: Duration,
    ) -> Option<OpenSession> {
        self.claims.lock().unwrap().push((known, pin));
        self.table.put(key, pin, idle)
    }

    fn remove(&self, key: SessionKey) {
        self.table.remove(key);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_receives_the_pin_that_a_new_one_replaces() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let store = Claims::new();
    let clock = Clock::new();
    let learned = Learned::cookie("JSESSIONID").store(store.clone());
    let learned = learned.absolute_timeout(Duration::from_secs(600));
    let service = layer(&backends, learned).clock(clock.clone()).into_service();
    begin(&service, &b, "1").await;
    assert!(store.claims.lock().unwrap().is_empty(), "the application ended it");
    ask(&service, "2").await;
    let (known, first) = store.last();
    assert_eq!(known, None, "of a session that is new to us");
    let (_, home) = ask(&service, "2").await;
    let home = if home == "a" { &a } else { &b };
    home.control.refuses.store(true, SeqCst);
    assert_eq!(ask(&service, "2").await.0.0, Verdict::Moved);
    let (known, moved) = store.last();
    assert_eq!(known, Some(first), "of a move: from where");
    assert!(moved.epoch() > first.epoch());
    home.control.refuses.store(false, SeqCst);
    clock.advance(601);
    ask(&service, "2").await;
    let (known, last) = store.last();
    let known = known.expect("of one that is too old: what was there");
    assert_eq!(known, moved);
    assert!(last.epoch() > moved.epoch());
    let issued = |pin: StoredPin| u32::from_be_bytes(pin.to_bytes()[16..].try_into().unwrap());
    assert!(issued(last) >= issued(known) + 601, "it is a new session");
    assert_eq!(ask(&service, "2").await.0, PINNED);
    assert!(store.claims.lock().unwrap().is_empty(), "and it is in time from then on");
}

#[tokio::test]
async fn a_store_may_refuse_a_new_pin() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let store = Claims::new();
    let chain =
        Chain::of(Learned::cookie("JSESSIONID").store(store.clone())).or(Cookie::plain("sid"));
    let service = layer(&backends, chain).into_service();
    set(&b, "JSESSIONID=1");
    while send(&service, get()).await.decision().1 != Some("b") {}
    b.control.response_headers.lock().unwrap().clear();
    store.down.store(true, SeqCst);
    let answer = send(&service, with_cookie("JSESSIONID=1")).await;
    assert_eq!(answer.status, 503, "its backend is unknown");
    assert_eq!(ask(&service, "1; sid=a").await, (PINNED, "a"), "but a token does");
    assert_eq!(send(&service, get()).await.status, 200, "without an id there is nothing to know");
    store.down.store(false, SeqCst);
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
}

#[tokio::test]
async fn a_key_does_not_place_a_session_that_cannot_be_looked_up() {
    let (backends, _nodes) = nodes(["a", "b"]);
    for is_nested in [false, true] {
        let store = Claims::new();
        let learned = Learned::cookie("JSESSIONID").store(store.clone());
        let by_id = Chain::of(learned).or(Key::header("user"));
        let chain = if is_nested { Chain::of(by_id).or(Cookie::plain("sid")) } else { by_id };
        let service = layer(&backends, chain).into_service();
        let request = || {
            let mut request = with_cookie("JSESSIONID=1");
            request.headers_mut().insert("user", "7".parse().unwrap());
            request
        };
        store.down.store(true, SeqCst);
        assert_eq!(send(&service, request()).await.status, 503, "nested: {is_nested}");
        store.down.store(false, SeqCst);
        assert_eq!(send(&service, request()).await.decision().0, Verdict::Assigned);
    }
}

#[tokio::test]
async fn a_move_to_where_the_session_is_leaves_its_pin_as_it_is() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let store = Claims::new();
    let service = remembering(&backends, &store);
    begin(&service, &b, "1").await;
    *b.control.action.lock().unwrap() = Some(SessionAction::Move("b".parse().unwrap()));
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    assert!(store.claims.lock().unwrap().is_empty(), "a new epoch means that it has moved");
}

/// A store that contains the largest epoch.
#[derive(Debug)]
struct Last(MemoryStore);

impl PinStore for Last {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        match self.0.get(key, idle) {
            Lookup::Now(Answer::Pin(pin, open)) => {
                let mut bytes = pin.to_bytes();
                bytes[8..16].fill(0xff);
                Lookup::Now(Answer::Pin(StoredPin::from_bytes(&bytes).unwrap(), open))
            }
            other => other,
        }
    }

    fn put(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Option<OpenSession> {
        self.0.put(key, pin, idle)
    }

    fn remove(&self, key: SessionKey) {
        self.0.remove(key);
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_epoch_does_not_overflow() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let learned = Learned::cookie("JSESSIONID").store(Last(MemoryStore::new(100)));
    let service = layer(&backends, learned).session_headers(true).into_service();
    begin(&service, &b, "1").await;
    b.control.refuses.store(true, SeqCst);
    assert_eq!(ask(&service, "1").await, ((Verdict::Moved, Some(Reason::ConnectFailed)), "a"));
    let told = a.control.headers.lock().unwrap().last().unwrap().clone();
    assert_eq!(told["x-sticky-epoch"], u64::MAX.to_string());
}

#[tokio::test]
async fn the_longest_time_budget_does_not_overflow() {
    let (backends, _nodes) = nodes(["a", "b"]);
    // A port without a listener.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = RedisStore::builder(&format!("redis://{port}")).time_budget(Duration::MAX);
    let learned = Learned::cookie("JSESSIONID").store(store.build().unwrap());
    let service = layer(&backends, learned).into_service();
    let answered = tokio::time::timeout(Duration::from_secs(60), ask(&service, "1")).await;
    assert!(answered.is_ok(), "it is placed by rank when Redis is not there");
}

#[tokio::test(start_paused = true)]
async fn a_store_receives_the_new_epoch_of_a_changed_address_once() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let store = Claims::new();
    let service = remembering(&backends, &store);
    begin(&service, &b, "1").await;
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    assert!(store.claims.lock().unwrap().is_empty());
    let (from, to) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    backends.address_changed("b", from, to).unwrap();
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    let (known, claimed) = store.last();
    assert!(claimed.epoch() > known.unwrap().epoch());
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    assert!(store.claims.lock().unwrap().is_empty());
}
