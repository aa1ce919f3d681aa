//! A store of learned sessions that takes its time.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_sticky::{
    Reason, Verdict, Wish,
    affinity::{Chain, Cookie, Learned},
    store::{Answer, Lookup, MemoryStore, OpenSession, PinStore, SessionKey, StoredPin},
};

use crate::{
    learned::{PINNED, ask, begin, layer, send_owned, set},
    support::{get, nodes, send, with_cookie},
};

/// A store that answers when a test lets it.
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
async fn a_store_may_take_its_time() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let slow = Slow::new(0);
    let learned = Learned::cookie("JSESSIONID").store(slow.clone());
    let service = layer(&backends, learned).into_service();
    begin(&service, &b, "1").await;
    assert_eq!(slow.asked.load(SeqCst), 0, "a request without an id asks nobody");
    let request = tokio::spawn(send_owned(service.clone(), "JSESSIONID=x; JSESSIONID=1".into()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!request.is_finished());
    assert_eq!(slow.asked.load(SeqCst), 1, "one after the other");
    slow.gate.add_permits(2);
    assert_eq!(request.await.unwrap(), "b");
    assert_eq!(slow.asked.load(SeqCst), 2, "each once");
    slow.gate.add_permits(1);
    b.told.refuses.store(true, SeqCst);
    assert_eq!(ask(&service, "1").await, ((Verdict::Moved, Some(Reason::ConnectFailed)), "a"));
    let epochs = slow.epochs.lock().unwrap().clone();
    assert!(epochs[1] > epochs[0], "a move has a greater epoch: {epochs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_costs_no_request() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let slow = Slow::new(0);
    let learned = Learned::cookie("JSESSIONID").store(slow.clone());
    let service = layer(&backends, learned).into_service();
    begin(&service, &b, "1").await;
    let before = tokio::time::Instant::now();
    let answer = send(&service, with_cookie("JSESSIONID=1")).await;
    assert_eq!(answer.why().0, Verdict::Assigned, "by the rank of its id");
    assert_eq!(before.elapsed(), Duration::from_secs(1), "as long as a request may wait");
    let mut bypass = with_cookie("JSESSIONID=1");
    bypass.extensions_mut().insert(Wish::bypass());
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
async fn a_store_behind_a_chain_may_take_its_time() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let slow = Slow::new(crate::support::UNGATED);
    let learned = Learned::cookie("JSESSIONID").store(slow.clone());
    let chain = Chain::of(Cookie::plain("sid")).or(learned);
    let service = layer(&backends, chain).into_service();
    send(&service, get()).await;
    set(&b, "JSESSIONID=1");
    assert_eq!(send(&service, get()).await.why().1, Some("b"));
    assert_eq!(ask(&service, "1").await, (PINNED, "b"));
    let asked = slow.asked.load(SeqCst);
    assert_eq!(ask(&service, "1; sid=a").await, (PINNED, "a"));
    assert_eq!(slow.asked.load(SeqCst), asked, "the cookie is enough");
}
