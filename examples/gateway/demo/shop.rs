//! One shop: a page, and carts by the shop's own session cookie.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};

/// The shop's own session cookie; the gateway passes it on as it is.
const SESSION: &str = "shop_session";

/// What there is to buy.
const GOODS: [(&str, &str); 4] =
    [("apple", "Apple"), ("bread", "Bread"), ("cheese", "Cheese"), ("tea", "Tea")];

/// A demo must not fill the memory: beyond this a shop forgets everything.
const MAX_CARTS: usize = 10_000;
const MAX_PIECES: u32 = 99;

/// One page for all shops; it asks for everything that differs.
const PAGE: &str = include_str!("page.html");

#[derive(Debug, Clone)]
struct Shop {
    name: &'static str,
    carts: Arc<Mutex<HashMap<String, Cart>>>,
}

/// How many pieces of each of the goods.
type Cart = [u32; GOODS.len()];

pub(super) fn router(name: &'static str) -> Router {
    let shop = Shop { name, carts: Arc::default() };
    Router::new()
        .route("/", get(page))
        .route("/cart", get(show))
        .route("/cart/{item}", post(add))
        .with_state(shop)
}

async fn page() -> Response {
    // The page needs nothing from anywhere else, and nobody may frame it.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
    (headers, Html(PAGE)).into_response()
}

async fn show(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    let carts = shop.carts();
    let known = session(&headers).and_then(|session| carts.get(session));
    let body = shop.describe(known.copied().unwrap_or_default(), known.is_some());
    drop(carts);
    no_store(Json(body).into_response())
}

async fn add(State(shop): State<Shop>, Path(item): Path<String>, headers: HeaderMap) -> Response {
    let Some(position) = GOODS.iter().position(|(id, _)| *id == item) else {
        let error = json!({ "error": "there is no such thing in this shop" });
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    };
    let mut carts = shop.carts();
    if carts.len() >= MAX_CARTS {
        carts.clear();
    }
    // A session that this shop does not know begins here, under a new name.
    let known = session(&headers).filter(|session| carts.contains_key(*session));
    let (session, is_new) = match known {
        Some(session) => (session.to_owned(), false),
        None => (new_session(), true),
    };
    let cart = carts.entry(session.clone()).or_default();
    cart[position] = (cart[position] + 1).min(MAX_PIECES);
    let body = shop.describe(*cart, true);
    drop(carts);
    let mut response = no_store(Json(body).into_response());
    if is_new {
        let cookie = format!("{SESSION}={session}; Path=/; HttpOnly; SameSite=Lax");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
    response
}

impl Shop {
    fn describe(&self, cart: Cart, known: bool) -> Value {
        let goods: Vec<_> = GOODS
            .iter()
            .zip(cart)
            .map(|((id, name), pieces)| json!({ "id": id, "name": name, "pieces": pieces }))
            .collect();
        json!({ "shop": self.name, "known": known, "goods": goods })
    }

    fn carts(&self) -> MutexGuard<'_, HashMap<String, Cart>> {
        self.carts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn no_store(mut response: Response) -> Response {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

/// The session that the request names.
fn session(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter();
    cookies.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(';')).find_map(
        |pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == SESSION).then_some(value)
        },
    )
}

/// Good enough to tell demo sessions apart; a real application takes a real random number.
fn new_session() -> String {
    let number = || RandomState::new().hash_one(0);
    format!("{:016x}{:016x}", number(), number())
}
