//! The demo shops of the gateway example, with carts in Redis and in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tower_sticky_heavy_tests::{
    client::{Client, cookie},
    demo::Shop,
    in_time,
    redis_server::RedisServer,
};

/// A browser.
struct Browser {
    client: Client,
    jar: BTreeMap<&'static str, String>,
}

impl Browser {
    fn new(shop: &Shop) -> Self {
        let addr = shop.page.strip_prefix("http://").unwrap().parse().unwrap();
        Self { client: Client::new(addr), jar: BTreeMap::new() }
    }

    async fn send(&mut self, method: Method, path: &str) -> (StatusCode, Value) {
        let cookies: Vec<_> = self.jar.iter().map(|(name, v)| format!("{name}={v}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("cookie", cookies.join("; "))
            .body(Full::<Bytes>::default())
            .unwrap();
        let answer = in_time("the shop answers", self.client.send(request)).await.unwrap();
        for name in ["SERVER_ID", "shop_session"] {
            if let Some(value) = cookie(&answer, name) {
                self.jar.insert(name, value);
            }
        }
        (answer.status(), serde_json::from_slice(answer.body()).unwrap())
    }

    /// The shop, whether it has the cart, and the number of apples in the cart.
    async fn cart(&mut self, method: Method, path: &str) -> (String, bool, u64) {
        let (status, cart) = self.send(method, path).await;
        assert_eq!(status, StatusCode::OK, "{cart}");
        let shop = cart["shop"].as_str().unwrap().to_owned();
        (shop, cart["known"].as_bool().unwrap(), cart["goods"][0]["pieces"].as_u64().unwrap())
    }

    async fn add(&mut self) -> (String, bool, u64) {
        self.cart(Method::POST, "/cart/apple").await
    }

    async fn load(&mut self) -> (String, bool, u64) {
        self.cart(Method::GET, "/cart").await
    }
}

#[tokio::test]
async fn a_cart_in_redis_survives_a_move() {
    let mut server = RedisServer::start();
    let gateway = Shop::start_with(&["--demo-store", &server.url()]).await;
    let mut browser = Browser::new(&gateway);
    let (first, known, apples) = browser.add().await;
    assert_eq!((known, apples), (true, 1));
    assert!(server.key().starts_with("sticky-demo:"), "the keys have a prefix of the demo");
    gateway.set_mode(&first, "disabled").await;
    let (second, known, apples) = browser.load().await;
    assert_ne!(second, first, "the session has moved");
    assert_eq!((known, apples), (true, 1), "the cart has moved with it");
    assert_eq!(browser.add().await, (second.clone(), true, 2));
    server.reset_calls();
    assert_eq!(browser.load().await, (second, true, 2));
    assert_eq!(server.calls("evalsha"), 0, "the cart is read from the local copy");
    // The session returns to the first shop, which has an outdated copy.
    gateway.set_mode(&first, "active").await;
    for other in ["shop-a", "shop-b", "shop-c"].into_iter().filter(|other| *other != first) {
        gateway.set_mode(other, "disabled").await;
    }
    assert_eq!(browser.load().await, (first.clone(), true, 2), "the outdated copy is not used");
    assert_eq!(browser.add().await, (first.clone(), true, 3));

    server.kill();
    let (status, body) = browser.send(Method::POST, "/cart/apple").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert_eq!(body["error"], "the store of the sessions does not answer");
    server.restart();
    let reconnected = async {
        while browser.send(Method::POST, "/cart/apple").await.0 != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    in_time("the shops reconnect to the store", reconnected).await;
    gateway.stop().await;
}

/// The negative control: without a shared store, the cart is lost.
#[tokio::test]
async fn a_cart_in_memory_is_lost_by_a_move() {
    let gateway = Shop::start().await;
    let mut browser = Browser::new(&gateway);
    let (first, known, apples) = browser.add().await;
    assert_eq!((known, apples), (true, 1));
    gateway.set_mode(&first, "disabled").await;
    let (second, known, apples) = browser.load().await;
    assert_ne!(second, first, "the session has moved");
    assert_eq!((known, apples), (false, 0), "the cart has not moved with it");
    gateway.stop().await;
}
