//! Two pools in one Axum router: the chat by its path, the API by its host, and the shop for everything else. Each
//! pool has its own backends, its own cookie, and its own drains.
//!
//! ```text
//! cargo run --example two_pools
//! ```

#![allow(missing_docs, unreachable_pub)]

#[path = "support/server.rs"]
mod server;

use std::error::Error;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http::header::{COOKIE, HOST, SET_COOKIE};
use server::Server;
use tower::ServiceExt;
use tower_sticky::{
    Backends, KeyRing, Mode, NoInner, StickyLayer, StickyService, affinity, proxy::Upstream,
    strategy::RoundRobin,
};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;
type Sticky = StickyService<Upstream, NoInner>;

/// The names of the backends of each pool.
const SHOP: [&str; 2] = ["shop-1", "shop-2"];
const CHAT: [&str; 2] = ["chat-1", "chat-2"];
const API: [&str; 2] = ["api-1", "api-2"];

/// A pool with its backends, which run until they are dropped. The name of a pool is bound into its tokens, so a token
/// of one pool is of no use in another one under the same keys.
fn pool(name: &str, ids: [&'static str; 2]) -> Fallible<(Backends<Upstream>, [Server; 2])> {
    let backends = Backends::named(name);
    let servers = ids.map(|id| {
        let app = Router::new().fallback(move |request: Request| async move {
            format!("{id} {}", request.uri().path())
        });
        Server::start(async move |listener| axum::serve(listener, app).await)
    });
    for (id, server) in ids.iter().zip(&servers) {
        backends.insert(id, Upstream::new(&server.url())?)?;
    }
    Ok((backends, servers))
}

/// The layer of a pool, with a cookie of its own.
fn sticky(backends: &Backends<Upstream>, cookie: affinity::Cookie) -> Sticky {
    StickyLayer::new(backends.clone(), cookie).strategy(RoundRobin::new()).into_service()
}

/// Sends the requests for one host to its pool, and all others on.
async fn by_host(State(api): State<Sticky>, request: Request, next: Next) -> Response {
    match request.headers().get(HOST) {
        Some(host) if host == "api.example" => api.oneshot(request).await.into_response(),
        _ => next.run(request).await,
    }
}

/// The router of the gateway.
fn router(
    shop: &Backends<Upstream>,
    chat: &Backends<Upstream>,
    api: &Backends<Upstream>,
    keys: &KeyRing,
) -> Router {
    // `path` keeps the cookie of the chat away from the shop. `route_service` leaves the path as it is, and
    // `nest_service` would remove "/chat".
    let chat_cookie = affinity::Cookie::sealed("CHAT", keys.clone()).path("/chat");
    Router::new()
        .route_service("/chat/{*rest}", sticky(chat, chat_cookie))
        .fallback_service(sticky(shop, affinity::Cookie::sealed("SHOP", keys.clone())))
        .layer(from_fn_with_state(
            sticky(api, affinity::Cookie::sealed("API", keys.clone())),
            by_host,
        ))
}

/// A client with the cookies that it was given, whatever their paths are.
struct Client {
    app: Router,
    cookies: Vec<String>,
}

impl Client {
    async fn get(&mut self, host: &str, path: &str) -> Fallible<String> {
        let request = Request::get(path)
            .header(HOST, host)
            .header(COOKIE, self.cookies.join("; "))
            .body(Body::empty())?;
        let response = self.app.clone().oneshot(request).await?;
        for cookie in response.headers().get_all(SET_COOKIE) {
            println!("{host}{path} sets {}", without_value(cookie.to_str()?));
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            let name = pair.split('=').next().unwrap_or_default();
            self.cookies.retain(|known| known.split('=').next() != Some(name));
            self.cookies.push(pair.to_owned());
        }
        let body = to_bytes(response.into_body(), 1 << 20).await?;
        let served = String::from_utf8_lossy(&body).into_owned();
        println!("{host}{path} is served by {served}");
        Ok(served)
    }
}

/// The name and the attributes of a cookie.
fn without_value(cookie: &str) -> String {
    let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
    format!("{};{attributes}", pair.split('=').next().unwrap_or_default())
}

#[tokio::main]
async fn main() -> Fallible<()> {
    // In production KeyRing::from_env("STICKY_KEY").
    let keys = KeyRing::generate()?;
    let (shop, _shop_servers) = pool("shop", SHOP)?;
    let (chat, _chat_servers) = pool("chat", CHAT)?;
    let (api, _api_servers) = pool("api", API)?;
    let app = router(&shop, &chat, &api, &keys);

    let mut client = Client { app, cookies: Vec::new() };
    for _ in 0..2 {
        client.get("shop.example", "/cart").await?;
        client.get("shop.example", "/chat/room").await?;
        client.get("api.example", "/chat/room").await?;
    }
    // One pool changes, and the others do not notice.
    let home = client.get("shop.example", "/chat/room").await?;
    let home = home.split(' ').next().unwrap_or_default();
    chat.set_mode(home, Mode::Disabled)?;
    println!("{home} is disabled");
    for (host, path) in
        [("shop.example", "/cart"), ("shop.example", "/chat/room"), ("api.example", "/cart")]
    {
        client.get(host, path).await?;
    }
    Ok(())
}
