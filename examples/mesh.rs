//! An Axum application whose nodes share the sessions: each node serves its own, and forwards those of a
//! peer to that peer. A cart is in the memory of one node, and is reached through any of them.
//!
//! ```text
//! cargo run --example mesh
//! ```

#![allow(missing_docs, unreachable_pub)]

#[path = "support/server.rs"]
mod server;

use std::{
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, body::Body, extract::Path, routing::post};
use http::{
    Request,
    header::{COOKIE, SET_COOKIE},
};
use http_body_util::BodyExt;
use server::Server;
use tower::ServiceExt;
use tower_sticky::{Backends, KeyRing, StickyLayer, affinity, proxy::Upstream};

const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// The application: one cart, in this node's memory.
fn shop(node: &'static str) -> Router {
    let cart = Arc::new(Mutex::new(Vec::new()));
    let add = move |Path(item): Path<String>| async move {
        let mut cart = cart.lock().unwrap_or_else(PoisonError::into_inner);
        cart.push(item);
        format!("{node} has the cart: {}", cart.join(", "))
    };
    Router::new().route("/cart/{item}", post(add))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In production KeyRing::from_env("STICKY_KEY"), with the same keys on all nodes.
    let keys = KeyRing::generate()?;
    let (listeners, urls) = Server::bind_all(NAMES.len())?;
    let mut nodes = Vec::new();
    for (name, listener) in NAMES.into_iter().zip(listeners) {
        // Every node has the same list; `local` names the node itself.
        let peers = Backends::new();
        for (peer, url) in NAMES.iter().zip(&urls) {
            peers.insert(peer, Upstream::new(url)?)?;
        }
        let affinity = affinity::Cookie::sealed("SERVER_ID", keys.clone());
        let app = shop(name).layer(StickyLayer::new(peers, affinity).local(name));
        nodes.push(Server::on(listener, async move |listener| axum::serve(listener, app).await));
    }

    let mut cookie = None;
    let entries = NAMES.iter().zip(&urls).cycle();
    for (item, (name, url)) in ["tea", "milk", "sugar", "cake"].into_iter().zip(entries) {
        let mut request = Request::post(format!("{url}/cart/{item}")).body(Body::empty())?;
        if let Some(cookie) = &cookie {
            request.headers_mut().insert(COOKIE, Clone::clone(cookie));
        }
        let response = Upstream::new(url)?.oneshot(request).await?;
        if let Some(set) = response.headers().get(SET_COOKIE) {
            let value = set.to_str()?.split(';').next().unwrap_or_default();
            cookie = Some(value.parse()?);
        }
        let text = response.into_body().collect().await?.to_bytes();
        println!("asked {name} for {item}: {}", String::from_utf8_lossy(&text));
    }
    for mut node in nodes {
        node.kill();
    }
    Ok(())
}
