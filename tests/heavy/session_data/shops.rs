//! Shops with a counter in the session, and a client with a cookie jar.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    http::{Method, Request, StatusCode, header, request},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tower_sessions::{Session, SessionManagerLayer, SessionStore};
use tower_sticky::{
    BackendId, Backends, KeyRing, Mode, NoInner, Outcome, StickyLayer, StickyService,
    affinity::Cookie,
    session_data::{FencedCache, MemoryStore, SessionScope},
};

/// Shops behind a gateway.
pub struct Fleet {
    pub backends: Backends<Router>,
    pub gateway: StickyService<Router, NoInner>,
    pub slow: Slow,
}

/// Makes slow requests wait between loading and saving the session.
#[derive(Debug, Clone)]
pub struct Slow {
    pub loaded: Arc<Semaphore>,
    pub may_save: Arc<Semaphore>,
}

impl Default for Slow {
    fn default() -> Self {
        Self { loaded: Arc::new(Semaphore::new(0)), may_save: Arc::new(Semaphore::new(0)) }
    }
}

impl Fleet {
    /// The shops `a`, `b` and `c`, each with its own fenced cache.
    pub fn fenced<S: SessionStore + Clone>(store: &S) -> Self {
        Self::new(|slow| fenced_shop(store, slow))
    }

    /// Shops that `shop` makes, with the same `Slow`.
    pub fn new(shop: impl Fn(&Slow) -> Router) -> Self {
        let slow = Slow::default();
        let backends = Backends::from_iter(["a", "b", "c"].map(|name| (name, shop(&slow))));
        let keys = KeyRing::generate().unwrap();
        let gateway = StickyLayer::new(backends.clone(), Cookie::sealed("sticky", keys))
            .session_extensions(true)
            .replicas(1)
            .into_service();
        Self { backends, gateway, slow }
    }

    /// Moves all sessions to this shop.
    pub fn only(&self, name: &str) {
        self.backends.set_mode(name, Mode::Active).unwrap();
        for other in ["a", "b", "c"].into_iter().filter(|other| *other != name) {
            self.backends.set_mode(other, Mode::Disabled).unwrap();
        }
    }
}

/// A shop with its own fenced cache in front of the store.
pub fn fenced_shop<S: SessionStore + Clone>(store: &S, slow: &Slow) -> Router {
    let cache = FencedCache::new(MemoryStore::new(), store.clone());
    shop(cache, slow).layer(SessionScope::new())
}

/// A shop with its sessions in `store`, without a scope.
pub fn shop<S: SessionStore + Clone>(store: S, slow: &Slow) -> Router {
    Router::new()
        .route("/count", get(count))
        .route("/read", get(read))
        .route("/slow", get(count_slowly))
        .route("/logout", get(logout))
        .with_state(slow.clone())
        .layer(SessionManagerLayer::new(store))
}

type Handled = Result<String, Failed>;

/// The session cannot be loaded or saved.
pub struct Failed(tower_sessions::session::Error);

impl From<tower_sessions::session::Error> for Failed {
    fn from(error: tower_sessions::session::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

async fn count(session: Session) -> Handled {
    let count = session.get::<u32>("count").await?.unwrap_or(0) + 1;
    session.insert("count", count).await?;
    Ok(count.to_string())
}

async fn read(session: Session) -> Handled {
    let count = session.get::<u32>("count").await?;
    Ok(count.map_or("none".to_owned(), |count| count.to_string()))
}

async fn count_slowly(State(slow): State<Slow>, session: Session) -> Handled {
    let count = session.get::<u32>("count").await?.unwrap_or(0) + 1;
    slow.loaded.add_permits(1);
    slow.may_save.acquire().await.unwrap().forget();
    session.insert("count", count).await?;
    Ok(count.to_string())
}

async fn logout(session: Session) -> Handled {
    session.flush().await?;
    Ok("bye".to_owned())
}

/// A client with a cookie jar. A clone has a copy of the cookies.
#[derive(Debug, Clone, Default)]
pub struct Client {
    pub jar: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
    /// The backend, if the gateway has chosen one.
    pub backend: Option<BackendId>,
}

impl Client {
    pub async fn get(&mut self, fleet: &Fleet, path: &str) -> Answer {
        self.get_from(fleet.gateway.clone(), path).await
    }

    pub async fn get_from<S, B>(&mut self, service: S, path: &str) -> Answer
    where
        S: tower::Service<Request<Body>, Response = Response<B>>,
        S::Error: std::fmt::Debug,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        self.get_as("", service, path).await
    }

    /// Sends a user name, which may be the affinity key.
    pub async fn get_as<S, B>(&mut self, user: &str, service: S, path: &str) -> Answer
    where
        S: tower::Service<Request<Body>, Response = Response<B>>,
        S::Error: std::fmt::Debug,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let request = Request::get(path).header("x-user", user);
        self.ask(service, request).await
    }

    pub async fn send_to<S, B>(&mut self, service: S, method: Method, path: &str) -> Answer
    where
        S: tower::Service<Request<Body>, Response = Response<B>>,
        S::Error: std::fmt::Debug,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        self.ask(service, Request::builder().method(method).uri(path)).await
    }

    async fn ask<S, B>(&mut self, service: S, request: request::Builder) -> Answer
    where
        S: tower::Service<Request<Body>, Response = Response<B>>,
        S::Error: std::fmt::Debug,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<tower::BoxError>,
    {
        let cookies: Vec<_> = self.jar.iter().map(|(name, v)| format!("{name}={v}")).collect();
        let request =
            request.header(header::HOST, "shop.example").header(header::COOKIE, cookies.join("; "));
        let response = service.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            if cookie.contains("Max-Age=0") {
                self.jar.remove(name);
            } else {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
        let status = response.status();
        let outcome = Outcome::of(response.extensions());
        let backend = outcome.and_then(|outcome| outcome.backend().cloned());
        let body = to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap();
        Answer { status, body: String::from_utf8(body.to_vec()).unwrap(), backend }
    }

    /// Sends a request that must succeed. Returns the body.
    pub async fn ok(&mut self, fleet: &Fleet, path: &str) -> String {
        let answer = self.get(fleet, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }
}
