//! What all shops of the demo have in common: the page, the goods, and the JSON of a cart.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use serde_json::json;

/// The shop's own session cookie; the gateway passes it on as it is.
pub(super) const SESSION: &str = "shop_session";

/// The goods, as id and name.
const GOODS: [(&str, &str); 4] =
    [("apple", "Apple"), ("bread", "Bread"), ("cheese", "Cheese"), ("tea", "Tea")];

/// The demo must not use unbounded memory.
pub(super) const MAX_CARTS: usize = 10_000;
const MAX_PIECES: u32 = 99;

/// The page of all shops. It loads what differs.
const PAGE: &str = include_str!("page.html");

/// How many pieces of each of the goods.
pub(super) type Cart = [u32; GOODS.len()];

/// A shop whose carts are kept behind `/cart`. Its page links to the dashboard of the gateway.
pub(super) fn router(carts: Router, dashboard: Option<SocketAddr>) -> Router {
    let to_dashboard = move || async move {
        match dashboard {
            Some(addr) => Redirect::to(&format!("http://{addr}/")).into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    };
    Router::new().route("/", get(page)).route("/dashboard", get(to_dashboard)).merge(carts)
}

async fn page() -> Response {
    // The page loads nothing from other origins, and must not be framed.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                  frame-ancestors 'none'";
    let headers = [(header::CONTENT_SECURITY_POLICY, policy), (header::CACHE_CONTROL, "no-store")];
    (headers, Html(PAGE)).into_response()
}

/// The position of an item among the goods.
pub(super) fn find(item: &str) -> Option<usize> {
    GOODS.iter().position(|(id, _)| *id == item)
}

/// Adds one piece to the cart.
pub(super) fn put(cart: &mut Cart, position: usize) {
    cart[position] = (cart[position] + 1).min(MAX_PIECES);
}

/// The response with a cart.
pub(super) fn describe(shop: &str, cart: Cart, known: bool) -> Response {
    let goods: Vec<_> = GOODS
        .iter()
        .zip(cart)
        .map(|((id, name), pieces)| json!({ "id": id, "name": name, "pieces": pieces }))
        .collect();
    let mut response =
        Json(json!({ "shop": shop, "known": known, "goods": goods })).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no_store);
    response
}

pub(super) fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

pub(super) fn no_such_thing() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is no such thing in this shop")
}
