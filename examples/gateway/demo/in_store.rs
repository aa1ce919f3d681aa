//! Carts in sessions of tower-sessions, in a store that all shops share. An acknowledged cart is found by
//! any shop that the session moves to.

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    middleware::map_response,
    response::Response,
    routing::{get, post},
};
use tower_sessions::{
    Expiry, Session, SessionManagerLayer, SessionStore,
    cookie::{SameSite, time::Duration},
    session,
};
use tower_sticky::{
    ConfigError,
    session_data::{FencedCache, MemoryStore, SessionScope},
};

use super::shop::{self, Cart, MAX_CARTS, SESSION};

/// The response header by which a shop tells the gateway that the pin of a session is out of date.
pub(crate) const ACTION: &str = "x-shop-session-action";

/// The key of the cart in the session.
const CART: &str = "cart";

#[derive(Debug, Clone)]
struct Shop {
    name: &'static str,
    /// Copies of the sessions of this shop, valid until they move.
    copies: MemoryStore,
}

pub(super) fn carts<S: SessionStore + Clone>(
    name: &'static str,
    store: S,
) -> Result<Router, ConfigError> {
    let copies = MemoryStore::new();
    let sessions = SessionManagerLayer::new(FencedCache::new(copies.clone(), store))
        .with_name(SESSION)
        .with_same_site(SameSite::Lax)
        .with_expiry(Expiry::OnInactivity(Duration::hours(1)))
        // The demo uses plain http.
        .with_secure(false);
    // The session headers are trusted: only the gateway knows the addresses of these shops.
    let scope = SessionScope::from_headers().application_header(ACTION)?;
    Ok(Router::new()
        .route("/cart", get(show))
        .route("/cart/{item}", post(add))
        .with_state(Shop { name, copies })
        .layer(sessions)
        .layer(scope)
        .layer(map_response(explain)))
}

async fn show(State(shop): State<Shop>, session: Session) -> Result<Response, StatusCode> {
    let cart = session.get::<Cart>(CART).await.map_err(failed)?;
    Ok(shop::describe(shop.name, cart.unwrap_or_default(), cart.is_some()))
}

async fn add(
    State(shop): State<Shop>,
    Path(item): Path<String>,
    session: Session,
) -> Result<Response, StatusCode> {
    let Some(position) = shop::find(&item) else {
        return Ok(shop::no_such_thing());
    };
    let cart = session.get::<Cart>(CART).await.map_err(failed)?;
    if cart.is_none() && shop.copies.len() >= MAX_CARTS {
        let why = "this shop has no room for another cart";
        return Ok(shop::refuse(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let mut cart = cart.unwrap_or_default();
    shop::put(&mut cart, position);
    // The session is saved before the response is sent; a failed save becomes an error response.
    session.insert(CART, cart).await.map_err(failed)?;
    Ok(shop::describe(shop.name, cart, true))
}

/// The status that tower-sessions uses too when it cannot save. It has logged the error.
fn failed(_: session::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

/// Adds a text to an error of the store, which is only a status.
async fn explain(mut response: Response) -> Response {
    let (status, why) = match response.status() {
        StatusCode::INTERNAL_SERVER_ERROR => {
            (StatusCode::SERVICE_UNAVAILABLE, "the store of the sessions does not answer")
        }
        StatusCode::CONFLICT => (StatusCode::CONFLICT, "the session has moved on; try again"),
        _ => return response,
    };
    let (parts, body) = shop::refuse(status, why).into_parts();
    *response.status_mut() = parts.status;
    response.headers_mut().extend(parts.headers);
    *response.body_mut() = body;
    response
}
