//! The demo: what happens to a cart when its shop is disabled.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use crate::{
    backends::refusing,
    client::{self, Answer, Client},
    process::Gateway,
};

/// Disables a shop.
async fn disable(admin: SocketAddr, shop: &str) {
    let disabled = "{\"mode\":\"disabled\"}";
    let path = format!("/backends/{shop}");
    let answer = client::send(admin, Method::PATCH, &path, &[], disabled).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

fn shop(cart: &Answer) -> String {
    cart.json()["shop"].as_str().unwrap().to_owned()
}

/// The number of pieces of tea in the cart.
fn tea(cart: &Answer) -> u64 {
    let cart = cart.json();
    let mut goods = cart["goods"].as_array().unwrap().iter();
    goods.find(|thing| thing["id"] == "tea").unwrap()["pieces"].as_u64().unwrap()
}

#[tokio::test]
async fn the_demo_needs_no_configuration() {
    let mut gateway = Gateway::start(&["--admin", "127.0.0.1:0"]).await;
    let admin = gateway.admin_addr().await;
    while !gateway.stdout_line().await.contains("curl -X PATCH") {}
    let mut client = Client::new(gateway.addr);
    let page = client.get("/").await;
    assert!(page.text().contains("<title>Sticky shop</title>"));
    client.send(Method::POST, "/cart/tea", &[], "").await;
    let cart = client.get("/cart").await;
    let first = shop(&cart);
    assert_eq!(cart.json()["known"], true);
    assert_eq!(cart.header("server-timing"), format!("sticky;desc=\"pinned {first}\""));
    disable(admin, &first).await;
    let cart = client.get("/cart").await;
    assert_ne!(shop(&cart), first, "the session has moved");
    assert_eq!(cart.json()["known"], false, "the new shop does not know the cart");
}

#[tokio::test]
async fn a_cart_in_a_shared_store_survives_moves() {
    let mut gateway = Gateway::start(&["--admin", "127.0.0.1:0", "--demo-store", "memory"]).await;
    let admin = gateway.admin_addr().await;
    while !gateway.stdout_line().await.contains("which finds the cart in the store") {}
    let mut client = Client::new(gateway.addr);
    let first = client.get("/cart").await;
    assert_eq!((&first.json()["known"], tea(&first)), (&false.into(), 0), "there is no cart yet");
    let added = client.send(Method::POST, "/cart/tea", &[], "").await;
    let cookie = added.header("set-cookie").to_owned();
    let mut attributes: Vec<_> = cookie.split("; ").collect();
    attributes.sort_unstable();
    assert!(attributes[4].starts_with("shop_session="), "{cookie}");
    let expected = ["HttpOnly", "Max-Age=3600", "Path=/", "SameSite=Lax"];
    assert_eq!(attributes[..4], expected, "{cookie}");
    let keys = |cart: &Answer| cart.json().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        keys(&added),
        ["goods", "known", "shop"],
        "the response has the same fields as without a store"
    );

    // Through all shops but the last; each finds what the others added.
    for pieces in 1..3 {
        let cart = client.get("/cart").await;
        assert_eq!((&cart.json()["known"], tea(&cart)), (&true.into(), pieces), "{cart:?}");
        let before = shop(&cart);
        disable(admin, &before).await;
        let cart = client.get("/cart").await;
        assert_ne!(shop(&cart), before, "the session has moved");
        assert_eq!((&cart.json()["known"], tea(&cart)), (&true.into(), pieces), "{cart:?}");
        let more = client.send(Method::POST, "/cart/tea", &[], "").await;
        assert_eq!(tea(&more), pieces + 1, "{more:?}");
        assert_eq!(
            more.header("x-shop-session-action"),
            "",
            "the header is removed from the response"
        );
    }
    let unknown = client.send(Method::POST, "/cart/moon", &[], "").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.json()["error"].is_string());
    let other = Client::new(gateway.addr).get("/cart").await;
    assert_eq!(tea(&other), 0, "another session has another cart");
}

#[tokio::test]
async fn an_unreachable_store_is_reported() {
    let refusing = refusing();
    let address = format!("redis://{}/", refusing.addr);
    let gateway = Gateway::start(&["--admin", "127.0.0.1:0", "--demo-store", &address]).await;
    let mut client = Client::new(gateway.addr);
    let page = client.get("/").await;
    assert_eq!(page.status, StatusCode::OK, "the page needs no store");
    client.jar.insert("shop_session".into(), "AAAAAAAAAAAAAAAAAAAAAA".into());
    for (method, path) in [(Method::GET, "/cart"), (Method::POST, "/cart/tea")] {
        let answer = client.send(method, path, &[], "").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert_eq!(answer.json()["error"], "the store of the sessions does not answer");
        assert_eq!(
            client.jar["shop_session"], "AAAAAAAAAAAAAAAAAAAAAA",
            "the session is kept for when the store returns"
        );
    }
}
