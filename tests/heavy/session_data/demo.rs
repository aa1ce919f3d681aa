//! The demo shops of the gateway, with their carts in Redis and without.

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

    /// The shop, whether it knows the cart, and how many apples are in it.
    async fn cart(&mut self, method: Method, path: &str) -> (String, bool, u64) {
        let (status, cart) = self.send(method, path).await;
        assert_eq!(status, StatusCode::OK, "{cart}");
        let shop = cart["shop"].as_str().unwrap().to_owned();
        (shop, cart["known"].as_bool().unwrap(), cart["goods"][0]["pieces"].as_u64().unwrap())
    }

    async fn add(&mut self) -> (String, bool, u64) {
        self.cart(Method::POST, "/cart/apple").await
    }

    async fn look(&mut self) -> (String, bool, u64) {
        self.cart(Method::GET, "/cart").await
    }
}

#[tokio::test]
async fn a_cart_in_redis_outlives_its_shop() {
    let mut server = RedisServer::start();
    let gateway = Shop::start_with(&["--demo-store", &server.url()]).await;
    let mut browser = Browser::new(&gateway);
    let (first, known, apples) = browser.add().await;
    assert_eq!((known, apples), (true, 1));
    assert!(server.key().starts_with("sticky-demo:"), "apart from what others keep there");
    gateway.set_mode(&first, "disabled").await;
    let (second, known, apples) = browser.look().await;
    assert_ne!(second, first, "the session has moved");
    assert_eq!((known, apples), (true, 1), "and the cart is there");
    assert_eq!(browser.add().await, (second.clone(), true, 2));
    server.reset_calls();
    assert_eq!(browser.look().await, (second, true, 2));
    assert_eq!(server.calls("evalsha"), 0, "as long as it stays the shop has it at hand");
    // And back, where there is an old copy.
    gateway.set_mode(&first, "active").await;
    for other in ["shop-a", "shop-b", "shop-c"].into_iter().filter(|other| *other != first) {
        gateway.set_mode(other, "disabled").await;
    }
    assert_eq!(browser.look().await, (first.clone(), true, 2), "the copy is not used");
    assert_eq!(browser.add().await, (first.clone(), true, 3));

    server.kill();
    let (status, said) = browser.send(Method::POST, "/cart/apple").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    assert_eq!(said["error"], "the store of the sessions does not answer");
    server.restart();
    let again = async {
        while browser.send(Method::POST, "/cart/apple").await.0 != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    in_time("the shops find the store again", again).await;
    gateway.stop().await;
}

/// The control: what the store is for.
#[tokio::test]
async fn a_cart_in_a_shops_own_memory_does_not() {
    let gateway = Shop::start().await;
    let mut browser = Browser::new(&gateway);
    let (first, known, apples) = browser.add().await;
    assert_eq!((known, apples), (true, 1));
    gateway.set_mode(&first, "disabled").await;
    let (second, known, apples) = browser.look().await;
    assert_ne!(second, first, "the session has moved");
    assert_eq!((known, apples), (false, 0), "and the cart is not there");
    gateway.stop().await;
}
