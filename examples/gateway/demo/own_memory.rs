//! Carts that a shop keeps in its own memory, under its own session cookie.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, header},
    response::Response,
    routing::{get, post},
};

use super::shop::{self, Cart, MAX_CARTS, SESSION};

#[derive(Debug, Clone)]
struct Shop {
    name: &'static str,
    carts: Arc<Mutex<HashMap<String, Cart>>>,
}

pub(super) fn carts(name: &'static str) -> Router {
    let shop = Shop { name, carts: Arc::default() };
    Router::new().route("/cart", get(show)).route("/cart/{item}", post(add)).with_state(shop)
}

async fn show(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    let carts = shop.carts();
    let known = session(&headers).and_then(|session| carts.get(session));
    shop::describe(shop.name, known.copied().unwrap_or_default(), known.is_some())
}

async fn add(State(shop): State<Shop>, Path(item): Path<String>, headers: HeaderMap) -> Response {
    let Some(position) = shop::find(&item) else {
        return shop::no_such_thing();
    };
    let mut carts = shop.carts();
    if carts.len() >= MAX_CARTS {
        // The demo simply forgets all carts.
        carts.clear();
    }
    // A session that this shop does not know gets a new id.
    let known = session(&headers).filter(|session| carts.contains_key(*session));
    let (session, is_new) = match known {
        Some(session) => (session.to_owned(), false),
        None => (new_session(), true),
    };
    let cart = carts.entry(session.clone()).or_default();
    shop::put(cart, position);
    let mut response = shop::describe(shop.name, *cart, true);
    drop(carts);
    if is_new {
        let cookie = format!("{SESSION}={session}; Path=/; HttpOnly; SameSite=Lax");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}

impl Shop {
    fn carts(&self) -> MutexGuard<'_, HashMap<String, Cart>> {
        self.carts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session id in the request.
fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(';')).find_map(
        |pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == SESSION).then_some(value)
        },
    )
}

/// Unique enough for a demo; a real application uses a cryptographic random number.
fn new_session() -> String {
    let number = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", number(), number())
}
