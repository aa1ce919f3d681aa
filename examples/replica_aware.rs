//! Sessions that outlive their server without a store: three shops that copy carts to each other.
//!
//! The gateway tells each shop where the session would go if this shop failed: its replica. The shop
//! copies the cart there before it acknowledges a change. One shop, a process of its own, is killed by
//! `kill -9`. The gateway sends the customer to the replica, and every acknowledged item is there.
//!
//! ```sh
//! cargo run --example replica_aware                      # 30 customers
//! cargo run --example replica_aware -- --customers 10000
//! ```

#![allow(missing_docs, unreachable_pub)]

#[path = "support/customer.rs"]
mod customer;
#[path = "support/process.rs"]
mod process;

use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{Request, StatusCode, header},
    routing::{get, post},
};
use customer::{Customer, Fallible};
use lexopt::ValueExt;
use process::Process;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use tower_sticky::{
    BackendId, Backends, KeyRing, SessionInfo, StickyLayer, affinity::Cookie, proxy::Upstream,
    session_data::SessionScope,
};

const NAMES: [&str; 3] = ["shop-1", "shop-2", "shop-3"];

// ---- A shop ----

#[derive(Clone)]
struct Shop {
    carts: Arc<Mutex<HashMap<String, Cart>>>,
    /// Serializes additions, so that concurrent ones are not lost. A real application has one lock for
    /// each session.
    adding: Arc<tokio::sync::Mutex<()>>,
    peers: Arc<Peers>,
}

/// The other shops by name.
type Peers = HashMap<String, Upstream>;

/// A cart. Of two copies the one with the later epoch is newer, and within an epoch the one with more
/// items.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Cart {
    epoch: u64,
    items: Vec<String>,
}

impl Cart {
    fn age(&self) -> (u64, usize) {
        (self.epoch, self.items.len())
    }
}

fn shop(shop: Shop) -> Router {
    Router::new()
        .route("/cart", get(show))
        .route("/cart/{item}", post(add))
        // For the other shops. A real application has these on an address of their own.
        .route("/copies/{session}", get(give_copy).put(take_copy))
        .with_state(shop)
        // The session headers are trusted: only the gateway can reach these shops.
        .layer(SessionScope::from_headers())
}

async fn show(State(shop): State<Shop>, info: SessionInfo) -> Result<String, StatusCode> {
    Ok(describe(&info, &shop.cart(&info).await?))
}

/// Acknowledges an item once the replica has it too.
async fn add(
    State(shop): State<Shop>,
    Path(item): Path<String>,
    info: SessionInfo,
) -> Result<String, StatusCode> {
    let session = session(&info)?;
    let _turn = shop.adding.lock().await;
    let mut cart = shop.cart(&info).await?;
    cart.items.push(item);
    shop.replicate(&info, &session, &cart).await?;
    if shop.keep(session, cart.clone()) {
        Ok(describe(&info, &cart))
    } else {
        Err(StatusCode::CONFLICT)
    }
}

async fn give_copy(State(shop): State<Shop>, Path(session): Path<String>) -> Json<Cart> {
    let cart = shop.carts().get(&session).cloned();
    Json(cart.unwrap_or_default())
}

async fn take_copy(
    State(shop): State<Shop>,
    Path(session): Path<String>,
    Json(cart): Json<Cart>,
) -> StatusCode {
    if shop.keep(session, cart) { StatusCode::NO_CONTENT } else { StatusCode::CONFLICT }
}

fn session(info: &SessionInfo) -> Result<String, StatusCode> {
    info.id().map(|id| id.to_string()).ok_or(StatusCode::BAD_REQUEST)
}

fn describe(info: &SessionInfo, cart: &Cart) -> String {
    format!("{} ({}): {}", info.backend(), info.verdict(), cart.items.join(", "))
}

impl Shop {
    fn carts(&self) -> MutexGuard<'_, HashMap<String, Cart>> {
        self.carts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores a cart, unless there is a newer one.
    fn keep(&self, session: String, cart: Cart) -> bool {
        let mut carts = self.carts();
        let kept = carts.entry(session).or_default();
        let is_newer = cart.age() >= kept.age();
        if is_newer {
            *kept = cart;
        }
        is_newer
    }

    /// The cart of the session. After a move the previous shop, if it still runs (as in a drain), may
    /// have a newer one.
    async fn cart(&self, info: &SessionInfo) -> Result<Cart, StatusCode> {
        let session = session(info)?;
        let mut cart = self.carts().get(&session).cloned().unwrap_or_default();
        let epoch = info.epoch().unwrap_or_default();
        if cart.epoch < epoch
            && let Some(from) = info.from()
            && let Ok(other) = self.copy_from(from, &session).await
            && other.age() > cart.age()
        {
            cart = other;
        }
        if cart.epoch > epoch {
            // This is a slow request from before a move.
            return Err(StatusCode::CONFLICT);
        }
        // From now on requests that are in flight at the previous shop are refused.
        cart.epoch = epoch;
        self.keep(session, cart.clone());
        Ok(cart)
    }

    /// Copies a cart to the first replica of the session that can be reached, which is where the gateway
    /// fails over to. Without another shop there is no copy.
    async fn replicate(
        &self,
        info: &SessionInfo,
        session: &str,
        cart: &Cart,
    ) -> Result<(), StatusCode> {
        for replica in info.replicas() {
            match self.copy_to(replica, session, cart).await {
                Ok(()) => return Ok(()),
                // The replica has a newer cart: this is a slow request from before a move.
                Err(error) if error.to_string().starts_with("409") => {
                    return Err(StatusCode::CONFLICT);
                }
                Err(_) => {}
            }
        }
        if info.replicas().is_empty() { Ok(()) } else { Err(StatusCode::SERVICE_UNAVAILABLE) }
    }

    async fn copy_to(&self, replica: &BackendId, session: &str, cart: &Cart) -> Fallible<()> {
        let body = Body::from(serde_json::to_vec(cart)?);
        self.ask(replica, "PUT", session, body).await.map(|_| ())
    }

    async fn copy_from(&self, other: &BackendId, session: &str) -> Fallible<Cart> {
        let body = self.ask(other, "GET", session, Body::empty()).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    async fn ask(
        &self,
        peer: &BackendId,
        method: &str,
        session: &str,
        body: Body,
    ) -> Fallible<Vec<u8>> {
        let upstream = self.peers.get(peer.as_str()).ok_or("not one of us")?.clone();
        let request = Request::builder()
            .method(method)
            .uri(format!("/copies/{session}"))
            .header(header::HOST, peer.as_str())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let response = upstream.oneshot(request).await?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), 1 << 20).await?;
        if status.is_success() { Ok(body.to_vec()) } else { Err(status.to_string().into()) }
    }
}

// ---- The processes ----

/// Runs a shop in a process of its own. It reads the addresses of the others once all of them run.
async fn run_shop() -> Fallible<()> {
    let listener = process::listen().await?;
    let peers = read_peers(&process::read_line()?)?;
    process::end_with_parent();
    let app = shop(Shop { carts: Arc::default(), adding: Arc::default(), peers: Arc::new(peers) });
    Ok(axum::serve(listener, app).await?)
}

/// Parses `shop-1=127.0.0.1:4001 shop-2=…`.
fn read_peers(line: &str) -> Fallible<Peers> {
    let mut peers = HashMap::new();
    for peer in line.split_whitespace() {
        let (name, addr) = peer.split_once('=').ok_or("a peer without an address")?;
        peers.insert(name.to_owned(), Upstream::new(&format!("http://{addr}"))?);
    }
    Ok(peers)
}

/// Starts all shops, and tells each the addresses of all.
fn start_all() -> Fallible<(Vec<Process>, Peers)> {
    let mut shops = Vec::new();
    let mut peers = Vec::new();
    for name in NAMES {
        let (shop, addr) = Process::start(&["--shop", name])?;
        shops.push(shop);
        peers.push(format!("{name}={addr}"));
    }
    let peers = peers.join(" ");
    for shop in &mut shops {
        shop.write_line(&peers)?;
    }
    Ok((shops, read_peers(&peers)?))
}

// ---- The demonstration ----

#[tokio::main]
async fn main() -> Fallible<ExitCode> {
    let Arguments { shop, customers: count } = Arguments::read()?;
    if shop.is_some() {
        run_shop().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let (mut shops, upstreams) = start_all()?;
    let backends = Backends::from_iter(upstreams);
    let gateway = StickyLayer::new(backends, Cookie::sealed("SERVER_ID", KeyRing::generate()?))
        .session_headers(true)
        .replicas(2)
        .retry_idempotent(true)
        .into_service();
    println!("Three shops; each copies its carts to the session's replica.");

    let mut customers: Vec<_> = (0..count).map(|_| Customer::new(gateway.clone())).collect();
    let mut owners = Vec::new();
    for customer in &mut customers {
        customer.send("POST", "/cart/apple").await?;
        let answer = customer.send("POST", "/cart/bread").await?;
        owners.push(answer.split(' ').next().unwrap_or_default().to_owned());
    }
    let killed = owners.first().ok_or("no customers")?.clone();
    let orphans = owners.iter().filter(|owner| **owner == killed).count();
    println!("{count} customers fill their carts, {orphans} of them at {killed}.");

    let position =
        NAMES.iter().position(|name| *name == killed).ok_or("the response names no shop")?;
    shops[position].kill()?;
    println!("{killed} is killed, and all that it had in memory is gone.");

    let mut lost = 0;
    let mut taken_over = HashMap::new();
    for (customer, owner) in customers.iter_mut().zip(&owners) {
        let answer = customer.send("GET", "/cart").await?;
        let by = answer.split(' ').next().unwrap_or_default().to_owned();
        lost += usize::from(!answer.ends_with(": apple, bread"));
        if *owner == killed {
            *taken_over.entry(by).or_insert(0) += 1;
        }
    }
    let mut taken_over: Vec<_> = taken_over.into_iter().collect();
    taken_over.sort();
    for (name, count) in taken_over {
        println!("{name} has taken over {count} of them.");
    }
    // The carts still change, and are copied to the shop that is left.
    for customer in &mut customers {
        let answer = customer.send("POST", "/cart/cheese").await?;
        lost += usize::from(!answer.ends_with(": apple, bread, cheese"));
    }
    println!("{lost} carts are lost.");
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Arguments {
    /// Internal: set in the process of a shop.
    shop: Option<String>,
    customers: usize,
}

impl Arguments {
    fn read() -> Fallible<Self> {
        let mut arguments = Self { shop: None, customers: 30 };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("shop") => arguments.shop = Some(parser.value()?.parse()?),
                lexopt::Arg::Long("customers") => arguments.customers = parser.value()?.parse()?,
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(arguments)
    }
}
