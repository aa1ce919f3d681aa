//! `GET /events`.

use http::{Method, StatusCode};
use serde_json::json;

use crate::{
    backends::{echo, refusing},
    client::{self, get},
    listener::Listener,
    process::Gateway,
};

#[tokio::test]
async fn every_change_is_an_event() {
    let closed = refusing();
    let flag = format!("a=http://{}", closed.addr);
    let mut gateway = Gateway::start(&["--admin", "127.0.0.1:0", "--backend", &flag]).await;
    let admin = gateway.admin_addr().await;
    let mut first = Listener::new(admin).await;

    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let suspect = json!({
        "backend": "a", "from": "ready", "to": "suspect", "cause": "connect-failed",
    });
    assert_eq!(first.next_of("state").await, suspect);

    let mut second = Listener::new(admin).await;
    let (b, elsewhere) = (echo("b").await, echo("b").await);
    for (method, body) in [
        (Method::PUT, json!({ "url": b.url() })),
        (Method::PUT, json!({ "url": elsewhere.url() })),
        (Method::PATCH, json!({ "weight": 3 })),
        (Method::PATCH, json!({ "mode": "disabled" })),
        (Method::DELETE, json!(null)),
    ] {
        let answer = client::send(admin, method, "/backends/b", &[], &body.to_string()).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }
    for listener in [&mut first, &mut second] {
        for (name, data) in [
            ("joined", json!({ "backend": "b" })),
            ("replaced", json!({ "backend": "b" })),
            ("weight", json!({ "backend": "b", "from": 1, "to": 3 })),
            ("mode", json!({ "backend": "b", "from": "active", "to": "disabled" })),
            ("left", json!({ "backend": "b" })),
        ] {
            // Events of the other backend.
            let mut next = listener.next().await;
            while next.0 == "state" {
                next = listener.next().await;
            }
            assert_eq!(next, (name.to_owned(), data));
        }
    }
}

#[tokio::test]
async fn event_listeners_leave_connections_for_others() {
    let a = echo("a").await;
    let mut gateway = Gateway::start(&["--admin", "127.0.0.1:0", "--backend", &a.flag("a")]).await;
    let admin = gateway.admin_addr().await;
    let mut listeners = Vec::new();
    let refused = loop {
        match Listener::try_new(admin, &[]).await {
            Ok(listener) => listeners.push(listener),
            Err(status) => break status,
        }
    };
    assert_eq!((listeners.len(), refused), (64, StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(get(admin, "/backends").await.status, StatusCode::OK);
    listeners.pop();
    // The gateway notices a little later that a listener has disconnected.
    while Listener::try_new(admin, &[]).await.is_err() {
        tokio::task::yield_now().await;
    }
}
