//! The session scope and the fence of one request. Sessions that move over real stores are in
//! `tests/heavy/session_data`.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use tower::{Layer, ServiceExt};
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
    session_store::Error,
};
use tower_sticky::{
    SessionAction, SessionInfo,
    session_data::{MemoryStore, Refused, Scope, SessionScope},
};

pub const ID: Id = Id(7);

pub fn record(number: u32) -> Record {
    Record {
        id: ID,
        data: HashMap::from([("number".to_owned(), number.into())]),
        expiry_date: (SystemTime::now() + Duration::from_secs(86_400)).into(),
    }
}

fn headers(outcome: &str, backend: &str, epoch: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("outcome", outcome), ("backend", backend), ("session", "00000000000000ff")]
    {
        let name = http::HeaderName::try_from(format!("x-sticky-{name}")).unwrap();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    }
    headers.insert("x-sticky-epoch", epoch.into());
    headers
}

pub fn scope(outcome: &str, backend: &str, epoch: u64) -> Scope {
    Scope::new(SessionInfo::from_headers(&headers(outcome, backend, epoch)).unwrap())
}

/// The same for affinity by key.
pub fn keyed(outcome: &str, backend: &str, epoch: u64) -> Scope {
    let mut headers = headers(outcome, backend, epoch);
    headers.insert("x-sticky-keyed", HeaderValue::from_static("1"));
    Scope::new(SessionInfo::from_headers(&headers).unwrap())
}

/// The reason of a refused save; `None` when it was saved.
fn why(saved: Result<(), Error>) -> Option<Refused> {
    saved.err().map(|error| Refused::of(&error).unwrap())
}

async fn load(store: &MemoryStore, scope: Scope) -> Option<Record> {
    scope.within(store.load(&ID)).await.unwrap()
}

/// A request that loads and saves.
async fn goes_on(store: &MemoryStore, scope: Scope, number: u32) -> Option<Refused> {
    let record = record(number);
    let work = async {
        store.load(&ID).await.unwrap();
        store.save(&record).await
    };
    why(scope.within(work).await)
}

#[tokio::test]
async fn the_first_load_of_a_request_sets_its_epoch() {
    let store = MemoryStore::new();
    assert_eq!(goes_on(&store, scope("assigned", "a", 7), 1).await, None);
    let request = scope("pinned", "a", 7).within(async {
        store.load(&ID).await.unwrap();
        assert_eq!(goes_on(&store, scope("moved", "b", 8), 2).await, None);
        assert!(load(&store, scope("moved", "a", 9)).await.is_some());
        // Another part of the same request loads the session too.
        store.load(&ID).await.unwrap();
        let late = why(store.save(&record(3)).await);
        assert_eq!(late, Some(Refused::Older { epoch: 7, kept: 9 }), "it builds on epoch 7");
        // A retry builds on what it has loaded since.
        store.load(&ID).await.unwrap();
        assert_eq!(why(store.save(&record(4)).await), None);
        assert_eq!(why(store.save(&record(5)).await), None, "and on what it has saved");
    });
    request.await;
}

#[tokio::test]
async fn several_sessions_may_be_used_by_one_request() {
    let store = MemoryStore::new();
    let other = Record { id: Id(8), ..record(1) };
    let borrower = scope("borrowed", "b", 7).within(async {
        store.save(&record(1)).await.unwrap();
        store.save(&other).await.unwrap();
    });
    borrower.await;
    let another = scope("borrowed", "c", 7).within(async {
        store.load(&ID).await.unwrap();
        store.load(&other.id).await.unwrap();
        assert_eq!(why(store.save(&record(2)).await), None);
        assert_eq!(why(store.save(&other).await), None);
    });
    another.await;
}

#[tokio::test]
async fn a_borrowing_backend_may_save_a_record_it_created() {
    let store = MemoryStore::new();
    let borrower = scope("borrowed", "b", 7).within(async {
        let mut created = record(1);
        store.create(&mut created).await.unwrap();
        why(store.save(&created).await)
    });
    assert_eq!(borrower.await, None);
}

#[tokio::test]
async fn a_slow_clock_refuses_no_save() {
    let store = MemoryStore::new();
    assert_eq!(goes_on(&store, scope("moved", "a", 9_000), 1).await, None);
    // Another gateway, and a client that has its pin.
    let refused = goes_on(&store, scope("pinned", "b", 5), 2).await;
    assert_eq!(refused, Some(Refused::Older { epoch: 5, kept: 9_000 }), "as any old pin");
    assert_eq!(goes_on(&store, scope("assigned", "b", 6), 3).await, None, "so it gets a new one");
    for number in 4..7 {
        assert_eq!(goes_on(&store, scope("pinned", "b", 6), number).await, None);
    }
    let blind = scope("pinned", "a", 9_000).within(async { store.save(&record(7)).await });
    let blind = why(blind.await);
    assert!(matches!(blind, Some(Refused::Older { .. })), "it has read nothing: {blind:?}");
}

#[tokio::test(start_paused = true)]
async fn sessions_in_memory_expire_and_are_evicted() {
    let store = MemoryStore::new();
    let short = |id| {
        let expiry_date = (SystemTime::now() + Duration::from_secs(60)).into();
        Record { id: Id(id), expiry_date, ..record(1) }
    };
    for id in 0..1000 {
        store.save(&short(id)).await.unwrap();
    }
    assert!(store.load(&Id(999)).await.unwrap().is_some());
    store.delete(&Id(998)).await.unwrap();
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(store.load(&Id(999)).await.unwrap(), None);
    assert!(store.save(&short(998)).await.is_err(), "it was deleted a minute ago");
    tokio::time::advance(Duration::from_secs(540)).await;
    store.save(&short(998)).await.unwrap();
    for id in 1000..6000 {
        store.save(&short(id)).await.unwrap();
    }
    tokio::time::advance(Duration::from_secs(61)).await;
    for id in 6000..12_000 {
        store.save(&short(id)).await.unwrap();
    }
    assert!(store.len() < 6100, "{} are left of 12,000, 6000 of them good", store.len());
}

/// An application that answers 500 after a save that is refused, as tower-sessions does.
async fn refused(request: Request<()>, store: MemoryStore) -> Response<&'static str> {
    let _ = request;
    let _ = store.load(&ID).await;
    let status = match store.save(&record(1)).await {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(if Scope::current().is_some() { "scope" } else { "none" });
    *response.status_mut() = status;
    response
}

async fn ask(
    layer: &SessionScope,
    store: &MemoryStore,
    headers: HeaderMap,
) -> Response<&'static str> {
    let store = store.clone();
    let app = tower::service_fn(move |request| {
        let store = store.clone();
        async move { Ok::<_, std::convert::Infallible>(refused(request, store).await) }
    });
    let mut request = Request::new(());
    *request.headers_mut() = headers;
    layer.layer(app).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn headers_are_trusted_only_by_option() {
    let store = MemoryStore::new();
    let said = ask(&SessionScope::new(), &store, headers("pinned", "a", 5)).await;
    assert_eq!(*said.body(), "none");
    let said = ask(&SessionScope::from_headers(), &store, headers("pinned", "a", 5)).await;
    assert_eq!(*said.body(), "scope");
    let said = ask(&SessionScope::from_headers(), &store, HeaderMap::new()).await;
    assert_eq!(*said.body(), "none", "the gateway says nothing");
    // A nested request has its own scope, or none.
    let outer = scope("pinned", "a", 5);
    let said = outer.within(ask(&SessionScope::new(), &store, HeaderMap::new())).await;
    assert_eq!(*said.body(), "none");
}

#[tokio::test]
async fn a_refused_save_is_a_conflict_and_ends_a_stale_pin() {
    let layer = SessionScope::from_headers().application_header("x-action").unwrap();
    let store = MemoryStore::new();
    assert_eq!(ask(&layer, &store, headers("pinned", "a", 5)).await.status(), StatusCode::OK);
    // Without a scope the response of tower-sessions is kept.
    let direct = ask(&layer, &store, HeaderMap::new()).await;
    assert_eq!(direct.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let borrowed = ask(&layer, &store, headers("borrowed", "b", 5)).await;
    assert_eq!(borrowed.status(), StatusCode::CONFLICT);
    assert!(!borrowed.headers().contains_key("x-action"), "the pin to its backend is valid");
    let late = ask(&layer, &store, headers("pinned", "b", 4)).await;
    assert_eq!(late.status(), StatusCode::CONFLICT);
    assert_eq!(late.headers()["x-action"], "end");
    assert_eq!(late.extensions().get(), Some(&SessionAction::End));
    let again = ask(&layer, &store, headers("moved", "b", 6)).await;
    assert_eq!(again.status(), StatusCode::OK);
    assert!(again.headers().is_empty());
}

#[tokio::test]
async fn axum_handlers_extract_session_info() {
    use axum::{Router, body::Body, routing::get};
    async fn must(info: SessionInfo, scope: Scope) -> String {
        format!("{} {:?}", info.backend(), scope.refused())
    }
    async fn may(info: Option<SessionInfo>, scope: Option<Scope>) -> String {
        format!("{} {}", info.is_some(), scope.is_some())
    }
    let app: Router = Router::new().route("/must", get(must)).route("/may", get(may));
    let app = app.layer(SessionScope::from_headers());
    let ask = async |path: &str, headers: HeaderMap| {
        let mut request = Request::get(path).body(Body::empty()).unwrap();
        *request.headers_mut() = headers;
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    };
    let told = || headers("pinned", "a", 5);
    assert_eq!(ask("/must", told()).await, (StatusCode::OK, "a None".to_owned()));
    assert_eq!(ask("/may", told()).await.1, "true true");
    assert_eq!(ask("/may", HeaderMap::new()).await.1, "false false");
    let (status, why) = ask("/must", HeaderMap::new()).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(why.contains("enabled on the gateway?"), "{why}");
}
