//! The admin interface.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    backends::{Backend, echo},
    client::{self, Answer, Client, get},
    process::Gateway,
};

/// A gateway over two backends, and its admin interface.
pub(crate) struct Setup {
    pub(crate) gateway: Gateway,
    pub(crate) admin: SocketAddr,
    a: Backend,
    b: Backend,
}

pub(crate) async fn setup() -> Setup {
    let (a, b) = (echo("a").await, echo("b").await);
    let args = ["--admin", "127.0.0.1:0", "--backend", &a.flag("a"), "--backend", &b.flag("b")];
    let mut gateway = Gateway::start(&args).await;
    let admin = gateway.admin_addr().await;
    Setup { gateway, admin, a, b }
}

impl Setup {
    async fn call(&self, method: Method, path: &str, body: &str) -> Answer {
        client::send(self.admin, method, path, &[], body).await
    }

    async fn stats(&self) -> Value {
        get(self.admin, "/stats").await.json()
    }
}

#[tokio::test]
async fn backends_are_listed() {
    let setup = setup().await;
    let list = get(setup.admin, "/backends").await;
    assert_eq!(list.status, StatusCode::OK);
    assert_eq!(list.header("content-type"), "application/json");
    let expected = |id: &str, backend: &Backend| {
        json!({
            "id": id, "url": backend.url(), "weight": 1, "state": "ready", "mode": "active",
            "in_flight": 0, "requests": 0, "sessions": null, "sessions_seen": 0, "unconfirmed": 0, "streams": 0, "waiting": 0, "limit": 0,
            "backup": false, "zone": null, "probe_failure": null,
        })
    };
    let all = json!([expected("a", &setup.a), expected("b", &setup.b)]);
    assert_eq!(list.json(), all);
}

#[tokio::test]
async fn backends_are_added_changed_and_removed() {
    let setup = setup().await;
    let c = echo("c").await;
    let body = json!({ "url": c.url(), "weight": 2, "max_connections": 5 }).to_string();
    let added = setup.call(Method::PUT, "/backends/c", &body).await;
    assert_eq!(added.status, StatusCode::CREATED);
    assert_eq!(added.json()["weight"], 2);
    for id in ["a", "b"] {
        let gone = setup.call(Method::DELETE, &format!("/backends/{id}"), "").await;
        assert!(gone.status.is_success(), "{gone:?}");
    }
    let mut client = Client::new(setup.gateway.addr);
    assert_eq!(client.get("/").await.backend(), "c");

    // The same backend at another address: its sessions stay.
    let elsewhere = echo("other address").await;
    let body = json!({ "url": elsewhere.url() }).to_string();
    let replaced = setup.call(Method::PUT, "/backends/c", &body).await;
    assert_eq!(replaced.status, StatusCode::OK);
    assert_eq!(replaced.json()["url"], elsewhere.url());
    assert_eq!(replaced.json()["weight"], 1, "an absent field has its default");
    let answer = client.get("/").await;
    assert_eq!(answer.backend(), "other address");
    assert_eq!(answer.header("set-cookie"), "", "the session has not moved");

    assert!(setup.call(Method::DELETE, "/backends/c", "").await.status.is_success());
    assert_eq!(get(setup.admin, "/backends").await.json(), json!([]));
    let answer = client.get("/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_draining_backend_keeps_its_sessions_and_takes_no_new_ones() {
    let setup = setup().await;
    let mut client = Client::new(setup.gateway.addr);
    let own = client.get("/").await.backend();
    for id in ["a", "b"] {
        let path = format!("/backends/{id}");
        let drained = setup.call(Method::PATCH, &path, "{\"mode\":\"draining\"}").await;
        assert_eq!(drained.status, StatusCode::OK);
        assert_eq!(drained.json()["mode"], "draining");
    }
    assert_eq!(client.get("/").await.backend(), own, "the session was there before the drain");
    let new_session = get(setup.gateway.addr, "/").await;
    assert_eq!(
        new_session.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "a new session is not assigned to a draining backend"
    );

    let path = format!("/backends/{own}");
    setup.call(Method::PATCH, &path, "{\"mode\":\"active\",\"weight\":0}").await;
    let new_session = get(setup.gateway.addr, "/").await;
    assert_eq!(
        new_session.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "a backend of weight 0 takes no new session"
    );
    setup.call(Method::PATCH, &path, "{\"weight\":1}").await;
    let new_session = get(setup.gateway.addr, "/").await;
    assert_eq!(new_session.backend(), own);
}

#[tokio::test]
async fn outcomes_add_up_to_the_requests() {
    let setup = setup().await;
    let mut client = Client::new(setup.gateway.addr);
    let own = client.get("/").await.backend();
    client.get("/").await;
    client.jar.insert("SERVER_ID".into(), "nonsense".into());
    client.get("/").await;
    let home_now = client.get("/").await.backend();
    setup.call(Method::PATCH, &format!("/backends/{home_now}"), "{\"mode\":\"disabled\"}").await;
    client.get("/").await;
    for id in ["a", "b"] {
        setup.call(Method::DELETE, &format!("/backends/{id}"), "").await;
    }
    client.get("/").await;

    let stats = setup.stats().await;
    assert_eq!(stats["requests"], 6, "totals survive a change of membership; {own}: {stats}");
    let outcomes = stats["outcomes"].as_object().unwrap();
    let sum: u64 = outcomes.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(sum, 6, "{stats}");
    assert_eq!(outcomes["assigned"], 2);
    assert_eq!(outcomes["pinned"], 2);
    assert_eq!(outcomes["moved"], 1);
    assert_eq!(outcomes["rejected"], 1);
    assert_eq!(stats["moves"], 1);
    assert_eq!(stats["tokens_issued"], 3);
    assert_eq!(stats["reasons"]["disabled"], 1);
    assert_eq!(stats["token_errors"]["malformed"], 1);
    assert_eq!(stats["token_errors"]["forged"], 0, "every reason is listed");
    assert_eq!(stats["violations"], 0);
}

#[tokio::test]
async fn invalid_requests_are_refused() {
    let setup = setup().await;
    let put = |body: &'static str| (Method::PUT, "/backends/c", body);
    let patch = |body: &'static str| (Method::PATCH, "/backends/a", body);
    for (method, path, body) in [
        put(""),
        put("{"),
        put("{}"),
        put("{\"url\":\"http://127.0.0.1:1\",\"wieght\":1}"),
        put("{\"url\":\"http://127.0.0.1:1\",\"weight\":-1}"),
        put("{\"url\":\"ftp://127.0.0.1:1\"}"),
        (Method::PUT, "/backends/a%3Bb", "{\"url\":\"http://127.0.0.1:1\"}"),
        patch("no json"),
        patch("{\"mode\":\"asleep\"}"),
        patch("{\"weight\":1.5}"),
        patch("{\"colour\":\"red\"}"),
        patch("{\"mode\":\"draining\",\"deadline\":\"soon\"}"),
        patch("{\"mode\":\"draining\",\"deadline\":30}"),
        patch("{\"mode\":\"disabled\",\"deadline\":\"5m\"}"),
        patch("{\"deadline\":\"5m\"}"),
        patch("{\"mode\":\"draining\",\"then\":\"repin\"}"),
        patch("{\"mode\":\"draining\",\"deadline\":\"5m\",\"then\":\"hope\"}"),
        put("{\"url\":\"http://127.0.0.1:1\",\"zone\":\"\"}"),
        put("{\"url\":\"http://127.0.0.1:1\",\"backup\":1}"),
    ] {
        let answer = setup.call(method.clone(), path, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {path} {body}");
        assert!(answer.json()["error"].is_string(), "{method} {path} {body}");
    }
    for (method, path, body) in [
        (Method::PATCH, "/backends/x", "{\"weight\":1}"),
        (Method::DELETE, "/backends/x", ""),
        (Method::GET, "/nowhere", ""),
    ] {
        let answer = setup.call(method.clone(), path, body).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}");
        assert!(answer.json()["error"].is_string(), "{method} {path}");
    }
    let answer = setup.call(Method::POST, "/stats", "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let list = get(setup.admin, "/backends").await.json();
    assert_eq!(list.as_array().unwrap().len(), 2, "a refused request changes nothing");
    assert_eq!(list[0]["mode"], "active", "a refused request changes nothing in part");
}
