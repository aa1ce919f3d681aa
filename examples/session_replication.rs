//! Sessions that outlive their server: three shops with tower-sessions behind a gateway.
//!
//! A customer fills a cart, the shop that serves the customer is killed, and the cart is still there: each
//! shop keeps its sessions in a cache, which is valid until the session moves, and in a store that all shops
//! share.
//!
//! ```sh
//! cargo run --example session_replication                                    # the store is in memory
//! cargo run --example session_replication -- --redis redis://127.0.0.1:6379/ # or in Redis
//! cargo run --example session_replication -- --customers 1000                # default: one
//! ```
//!
//! With Redis each shop is a process of its own, and is killed by `kill -9`.

#![allow(missing_docs, unreachable_pub)]

#[path = "support/customer.rs"]
mod customer;
#[path = "support/process.rs"]
mod process;
#[path = "support/server.rs"]
mod server;

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use customer::{Customer, Fallible};
use lexopt::ValueExt;
use process::Process;
use server::Server;
use tower_sessions::{Session, SessionManagerLayer, SessionStore};
use tower_sticky::{
    Backends, KeyRing, SessionInfo, StickyLayer,
    affinity::Cookie,
    proxy::Upstream,
    session_data::{FencedCache, MemoryStore, RedisStore, SessionScope},
};

const NAMES: [&str; 3] = ["shop-1", "shop-2", "shop-3"];

// ---- A shop ----

/// The application: a cart in the session.
fn shop<S: SessionStore + Clone>(store: S) -> Router {
    // The copies are in this process, and valid only while the gateway sends the session here.
    let sessions = SessionManagerLayer::new(FencedCache::new(MemoryStore::new(), store));
    Router::new()
        .route("/cart", get(show))
        .route("/cart/{item}", post(add))
        .layer(sessions.with_secure(false))
        // The session headers are trusted: only the gateway can reach these shops.
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

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unavailable(error: tower_sessions::session::Error) -> StatusCode {
    eprintln!("the session store: {error}");
    StatusCode::SERVICE_UNAVAILABLE
}

/// A shop that runs until it is killed, and loses its memory then.
enum Running {
    /// A thread: the shops share a store in memory, so they are in one process.
    Thread(Server),
    /// A process: the shops share a store on Redis.
    Process(Process),
}

impl Running {
    fn in_thread(store: MemoryStore) -> (Self, SocketAddr) {
        let server = Server::start(async move |listener| axum::serve(listener, shop(store)).await);
        let addr = server.addr;
        (Self::Thread(server), addr)
    }

    fn as_process(name: &str, redis: &str) -> Fallible<(Self, SocketAddr)> {
        let (process, addr) = Process::start(&["--shop", name, "--redis", redis])?;
        Ok((Self::Process(process), addr))
    }

    fn kill(&mut self) -> Fallible<()> {
        match self {
            Self::Thread(server) => server.kill(),
            Self::Process(process) => process.kill()?,
        }
        Ok(())
    }
}

/// Runs a shop in a process of its own.
async fn run_shop(redis: &str) -> Fallible<()> {
    process::end_with_parent();
    let app = shop(RedisStore::new(redis)?);
    Ok(axum::serve(process::listen().await?, app).await?)
}

// ---- The demonstration ----

/// Starts the shops, as processes with Redis, else in threads of this process.
fn start_shops(redis: Option<&str>) -> Fallible<(Vec<Running>, Backends<Upstream>)> {
    let place = if redis.is_some() { "Redis" } else { "memory" };
    println!("Three shops; they share a store in {place}.");
    let in_memory = MemoryStore::new();
    let mut shops = Vec::new();
    let backends = Backends::new();
    for name in NAMES {
        let (shop, addr) = match redis {
            Some(redis) => Running::as_process(name, redis)?,
            None => Running::in_thread(in_memory.clone()),
        };
        shops.push(shop);
        let upstream = Upstream::new(&format!("http://{addr}"))?;
        backends.insert(name, upstream.connect_timeout(Duration::from_secs(1)))?;
    }
    Ok((shops, backends))
}

#[tokio::main]
async fn main() -> Fallible<ExitCode> {
    let Arguments { shop, redis, customers: count } = Arguments::read()?;
    if let (Some(_), Some(redis)) = (&shop, &redis) {
        run_shop(redis).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut shops, backends) = start_shops(redis.as_deref())?;
    let gateway = StickyLayer::new(backends, Cookie::sealed("SERVER_ID", KeyRing::generate()?))
        .session_headers(true)
        .retry_idempotent(true)
        .into_service();

    // With one customer every response is printed, with several only a summary.
    let say = |what: &str, answer: &str| {
        if count == 1 {
            println!("{what:<12} {answer}");
        }
    };
    let mut customers: Vec<_> = (0..count).map(|_| Customer::new(gateway.clone())).collect();
    let mut owners = Vec::new();
    for customer in &mut customers {
        say("add apple", &customer.send("POST", "/cart/apple").await?);
        let answer = customer.send("POST", "/cart/bread").await?;
        say("add bread", &answer);
        owners.push(answer.split(' ').next().unwrap_or_default().to_owned());
    }
    let killed = owners.first().ok_or("no customers")?.clone();
    if count > 1 {
        let theirs = owners.iter().filter(|owner| **owner == killed).count();
        println!("{count} customers fill their carts, {theirs} of them at {killed}.");
    }

    let position =
        NAMES.iter().position(|name| *name == killed).ok_or("the response names no shop")?;
    shops[position].kill()?;
    println!("{killed} is killed, and all that it had in memory is gone.");

    let mut lost = 0;
    for customer in &mut customers {
        let found = customer.send("GET", "/cart").await?;
        say("look", &found);
        let more = customer.send("POST", "/cart/cheese").await?;
        say("add cheese", &more);
        let is_there = found.ends_with(": apple, bread")
            && more.ends_with(": apple, bread, cheese")
            && !more.starts_with(&killed);
        lost += usize::from(!is_there);
    }
    match (count, lost) {
        (1, 0) => println!("The cart is still there."),
        (1, _) => println!("The cart is lost."),
        _ => println!("{lost} carts are lost."),
    }
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Arguments {
    /// Internal: set in the process of a shop.
    shop: Option<String>,
    /// The address of Redis, if one is given.
    redis: Option<String>,
    customers: usize,
}

impl Arguments {
    fn read() -> Fallible<Self> {
        let mut arguments = Self { shop: None, redis: None, customers: 1 };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("shop") => arguments.shop = Some(parser.value()?.parse()?),
                lexopt::Arg::Long("redis") => arguments.redis = Some(parser.value()?.parse()?),
                lexopt::Arg::Long("customers") => arguments.customers = parser.value()?.parse()?,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(arguments)
    }
}
