//! Sessions that outlive their server: three shops with tower-sessions behind a gateway.
//!
//! A customer fills a cart, the shop that has the customer is killed, and the cart is still there: each
//! shop keeps its sessions at hand, in a cache that is good as long as the customer stays, and in a
//! store that all shops share.
//!
//! ```sh
//! cargo run --example session_replication                                    # the store is in memory
//! cargo run --example session_replication -- --redis redis://127.0.0.1:6379/ # or in Redis
//! ```

use std::{error::Error, process::ExitCode, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Path,
    http::{Request, StatusCode, header},
    routing::{get, post},
};
use lexopt::ValueExt;
use tokio::runtime::Runtime;
use tower::ServiceExt;
use tower_sessions::{Session, SessionManagerLayer, SessionStore};
use tower_sticky::{
    Backends, KeyRing, NoInner, SessionInfo, StickyLayer, StickyService,
    affinity::Cookie,
    proxy::Upstream,
    session_data::{FencedCache, MemoryStore, RedisStore, SessionScope},
};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

const NAMES: [&str; 3] = ["shop-1", "shop-2", "shop-3"];

// ---- A shop ----

/// The application: a cart in the session.
fn shop<S: SessionStore + Clone>(store: S) -> Router {
    // Copies are in this process, and only good as long as the gateway sends the session here.
    let sessions = SessionManagerLayer::new(FencedCache::new(MemoryStore::new(), store));
    Router::new()
        .route("/cart", get(show))
        .route("/cart/{item}", post(add))
        .layer(sessions.with_secure(false))
        // What the gateway says in headers. Nobody else can reach these shops.
        .layer(SessionScope::from_headers())
}

async fn show(info: SessionInfo, session: Session) -> Result<String, StatusCode> {
    let cart: Vec<String> = session.get("cart").await.map_err(unavailable)?.unwrap_or_default();
    Ok(format!("{} ({}): {}", info.backend(), info.verdict(), cart.join(", ")))
}

async fn add(
    Path(item): Path<String>,
    info: SessionInfo,
    session: Session,
) -> Result<String, StatusCode> {
    let mut cart: Vec<String> = session.get("cart").await.map_err(unavailable)?.unwrap_or_default();
    cart.push(item);
    session.insert("cart", &cart).await.map_err(unavailable)?;
    Ok(format!("{} ({}): {}", info.backend(), info.verdict(), cart.join(", ")))
}

fn unavailable(error: tower_sessions::session::Error) -> StatusCode {
    eprintln!("the session store: {error}");
    StatusCode::SERVICE_UNAVAILABLE
}

/// Where the shops keep what must not be lost.
#[derive(Clone)]
enum Store {
    Memory(MemoryStore),
    Redis(String),
}

/// A shop that runs, with threads of its own: when it is killed, all that it had in memory is gone.
struct Running {
    name: &'static str,
    runtime: Option<Runtime>,
}

impl Running {
    fn start(name: &'static str, store: Store) -> Fallible<(Self, Upstream)> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let upstream = Upstream::new(&format!("http://{}", listener.local_addr()?))?;
        let _within = runtime.enter();
        let app = match store {
            Store::Memory(store) => shop(store),
            Store::Redis(url) => shop(RedisStore::new(&url)?),
        };
        let listener = tokio::net::TcpListener::from_std(listener)?;
        runtime.spawn(async move { axum::serve(listener, app).await });
        drop(_within);
        Ok((Self { name, runtime: Some(runtime) }, upstream))
    }

    async fn kill(mut self) -> Fallible<()> {
        if let Some(runtime) = self.runtime.take() {
            let end = move || runtime.shutdown_timeout(Duration::from_secs(5));
            tokio::task::spawn_blocking(end).await?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// ---- A customer ----

/// A browser with two cookies: the gateway's and the shop's.
struct Customer {
    gateway: StickyService<Upstream, NoInner>,
    cookies: Vec<(String, String)>,
}

impl Customer {
    async fn send(&mut self, method: &str, path: &str) -> Fallible<String> {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "shop.example")
            .header(header::COOKIE, cookies.join("; "))
            .body(Body::empty())?;
        let response = self.gateway.clone().oneshot(request).await?;
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.retain(|(known, _)| known != name);
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), 1 << 20).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}").into()) }
    }
}

// ---- The story ----

#[tokio::main]
async fn main() -> Fallible<ExitCode> {
    let store = match arguments()? {
        Some(url) => Store::Redis(url),
        None => Store::Memory(MemoryStore::new()),
    };
    match &store {
        Store::Memory(_) => println!("Three shops; they share a store in memory."),
        Store::Redis(_) => println!("Three shops; they share a store in Redis."),
    }
    let mut shops = Vec::new();
    let backends = Backends::new();
    for name in NAMES {
        let (shop, upstream) = Running::start(name, store.clone())?;
        backends.insert(name, upstream.connect_timeout(Duration::from_secs(1)))?;
        shops.push(shop);
    }
    let gateway = StickyLayer::new(backends, Cookie::sealed("SERVER_ID", KeyRing::generate()?))
        .session_headers(true)
        .retry_idempotent(true)
        .into_service();

    let mut customer = Customer { gateway, cookies: Vec::new() };
    let say = |what: &str, answer: &str| println!("{what:<12} {answer}");
    say("add apple", &customer.send("POST", "/cart/apple").await?);
    let before = customer.send("POST", "/cart/bread").await?;
    say("add bread", &before);

    let owner = before.split(' ').next().unwrap_or_default().to_owned();
    let position = shops.iter().position(|shop| shop.name == owner).ok_or("who was that?")?;
    shops.swap_remove(position).kill().await?;
    println!("{owner} is killed, and all that it had in memory is gone.");

    say("look", &customer.send("GET", "/cart").await?);
    let after = customer.send("POST", "/cart/cheese").await?;
    say("add cheese", &after);
    if after.starts_with(&owner) || !after.ends_with(": apple, bread, cheese") {
        println!("The cart is lost.");
        return Ok(ExitCode::FAILURE);
    }
    println!("The cart is still there.");
    Ok(ExitCode::SUCCESS)
}

/// The address of Redis, if one is given.
fn arguments() -> Fallible<Option<String>> {
    let mut url = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("redis") => url = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(url)
}
