//! A shop with tower-sessions as a process of its own, which can really be killed: `heavy-shop STORE`,
//! where STORE is the address of a Redis; with `none` the sessions are in its own memory and nowhere else.
//!
//! It says where it listens, and stops when its standard input ends.

#![allow(missing_docs, clippy::unwrap_used)]

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tower_sessions::{Session, SessionManagerLayer, SessionStore};
use tower_sticky::{
    SessionInfo,
    session_data::{FencedCache, MemoryStore, RedisStore, SessionScope},
};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let store = std::env::args().nth(1).expect("a store");
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // Whoever started it is gone.
        std::process::exit(1);
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let app = match store.as_str() {
        "none" => shop(MemoryStore::new()),
        url => shop(FencedCache::new(MemoryStore::new(), RedisStore::new(url).unwrap())),
    };
    axum::serve(listener, app).await.unwrap();
}

fn shop<S: SessionStore + Clone>(store: S) -> Router {
    Router::new()
        .route("/cart", get(show))
        .route("/cart/{item}", post(add))
        .layer(SessionManagerLayer::new(store).with_secure(false))
        .layer(SessionScope::from_headers())
}

async fn show(info: SessionInfo, session: Session) -> Result<String, StatusCode> {
    Ok(describe(&info, &cart(&session).await?))
}

async fn add(
    Path(item): Path<String>,
    info: SessionInfo,
    session: Session,
) -> Result<String, StatusCode> {
    let mut cart = cart(&session).await?;
    cart.push(item);
    session.insert("cart", &cart).await.map_err(failed)?;
    Ok(describe(&info, &cart))
}

async fn cart(session: &Session) -> Result<Vec<String>, StatusCode> {
    Ok(session.get("cart").await.map_err(failed)?.unwrap_or_default())
}

fn failed(_: tower_sessions::session::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

/// As the shops of the examples say it.
fn describe(info: &SessionInfo, cart: &[String]) -> String {
    format!("{} ({}): {}", info.backend(), info.verdict(), cart.join(", "))
}
