//! Who may call the admin interface.

use std::net::SocketAddr;

use http::{Method, StatusCode};

use crate::{
    admin::setup,
    client::{self, get, raw},
    listener::Listener,
    process::Gateway,
};

const OWN_HOST: &[(&str, &str)] = &[];

/// A gateway with one backend, and the address of its admin interface.
async fn configured(admin: &str) -> (Gateway, SocketAddr) {
    let backend = "[[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"";
    let mut gateway = Gateway::configured(&format!("{admin}\n{backend}")).await;
    let port = gateway.admin_addr().await.port();
    (gateway, SocketAddr::from(([127, 0, 0, 1], port)))
}

async fn read(admin: SocketAddr, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    client::send(admin, Method::GET, path, headers, "").await.status
}

async fn change(admin: SocketAddr, headers: &[(&str, &str)]) -> StatusCode {
    let body = "{\"weight\":1}";
    client::send(admin, Method::PATCH, "/backends/a", headers, body).await.status
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let setup = setup().await;
    let own = setup.admin.to_string();
    let origin = format!("http://{own}");
    let rebound = format!("evil.example:{}", setup.admin.port());
    let cases: [(&[(&str, &str)], StatusCode); 9] = [
        (&[("host", &own)], StatusCode::OK),
        (&[("host", "localhost:9090")], StatusCode::OK),
        (&[("host", "[::1]:9090")], StatusCode::OK),
        (&[("host", &own), ("origin", &origin)], StatusCode::OK),
        (&[("host", &rebound)], StatusCode::FORBIDDEN),
        (&[("host", "10.0.0.1:9090")], StatusCode::FORBIDDEN),
        (&[("host", &own), ("origin", "http://evil.example")], StatusCode::FORBIDDEN),
        (&[("host", &own), ("origin", "http://127.0.0.1:3000")], StatusCode::FORBIDDEN),
        (&[("host", &own), ("origin", "null")], StatusCode::FORBIDDEN),
    ];
    for (headers, expected) in cases {
        let body = "{\"weight\":1}";
        let answer = client::send(setup.admin, Method::PATCH, "/backends/a", headers, body).await;
        assert_eq!(answer.status, expected, "{headers:?}");
        let path = "/backends/x";
        let answer = client::send(setup.admin, Method::DELETE, path, headers, "").await;
        let allowed = answer.status != StatusCode::FORBIDDEN;
        assert_eq!(allowed, expected == StatusCode::OK, "{headers:?}");
        let listening = Listener::try_new(setup.admin, headers).await.map(drop);
        assert_eq!(
            listening.err().unwrap_or(StatusCode::OK),
            expected,
            "listening with {headers:?}"
        );
    }
}

#[tokio::test]
async fn with_a_token_every_call_needs_it() {
    let (_gateway, admin) =
        configured("admin = \"0.0.0.0:0\"\nadmin_token = \"open sesame\"").await;
    for path in ["/backends", "/stats", "/events", "/nowhere"] {
        for wrong in
            [None, Some("Bearer open sesam"), Some("Bearer open sesamE"), Some("Basic open sesame")]
        {
            let headers: Vec<_> = wrong.map(|value| ("authorization", value)).into_iter().collect();
            let answer = client::send(admin, Method::GET, path, &headers, "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {wrong:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
        }
    }
    assert_eq!(get(admin, "/healthz").await.status, StatusCode::OK, "it is free for everybody");
    let right = [("authorization", "Bearer open sesame")];
    let answer = client::send(admin, Method::GET, "/backends", &right, "").await;
    assert_eq!(answer.status, StatusCode::OK);
    let answer = client::send(admin, Method::PATCH, "/backends/a", &right, "{\"weight\":3}").await;
    assert_eq!(answer.json()["weight"], 3);
    assert!(Listener::try_new(admin, &right).await.is_ok(), "the token allows listening");
}

#[tokio::test]
async fn reads_with_a_foreign_host_are_refused() {
    let setup = setup().await;
    let rebound = format!("evil.example:{}", setup.admin.port());
    let mapped = format!("[::ffff:127.0.0.1]:{}", setup.admin.port());
    for path in ["/backends", "/stats", "/nowhere"] {
        for host in [&*rebound, "evil.example", "10.0.0.1:9090", "localhost.evil.example"] {
            let status = read(setup.admin, path, &[("host", host)]).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{path} {host}");
        }
    }
    for host in ["localhost", "LOCALHOST:1", "[::1]", "127.0.0.2", &mapped] {
        let status = read(setup.admin, "/backends", &[("host", host)]).await;
        assert_eq!(status, StatusCode::OK, "{host}");
    }
    let foreign_page = [("origin", "http://evil.example")];
    let status = read(setup.admin, "/stats", &foreign_page).await;
    assert_eq!(status, StatusCode::OK, "browsers do not let a page read it");
    for host in [&*rebound, "evil.example"] {
        let status = read(setup.admin, "/healthz", &[("host", host)]).await;
        assert_eq!(status, StatusCode::OK, "/healthz is free for everybody: {host}");
    }
    let without_host = raw(setup.admin, "GET /stats HTTP/1.0\r\n\r\n").await;
    assert!(without_host.starts_with("HTTP/1.0 403"), "{without_host}");
    let absolute = "GET http://evil.example/stats HTTP/1.1\r\nhost: localhost\r\n\
                    connection: close\r\n\r\n";
    let absolute = raw(setup.admin, absolute).await;
    assert!(absolute.starts_with("HTTP/1.1 403"), "the target's authority counts: {absolute}");
}

#[tokio::test]
async fn named_hosts_may_read_and_change() {
    let hosts =
        "admin = \"127.0.0.1:0\"\nadmin_hosts = [\"Gateway.Internal\", \"10.0.0.1\", \"fd00::1\"]";
    let (_gateway, admin) = configured(hosts).await;
    for host in ["gateway.internal", "GATEWAY.internal:9090", "10.0.0.1", "[fd00:0::1]:80"] {
        let host = [("host", host)];
        assert_eq!(read(admin, "/backends", &host).await, StatusCode::OK, "{host:?}");
        assert_eq!(change(admin, &host).await, StatusCode::OK, "{host:?}");
    }
    for origin in ["http://gateway.internal", "https://gateway.internal"] {
        let headers = [("host", "gateway.internal"), ("origin", origin)];
        assert_eq!(change(admin, &headers).await, StatusCode::OK, "{origin}");
    }
    let headers = [("host", "gateway.internal"), ("origin", "http://localhost")];
    assert_eq!(change(admin, &headers).await, StatusCode::FORBIDDEN);
    for host in ["x.gateway.internal", "gateway.internal.evil.example", "10.0.0.2", "[fd00::2]"] {
        let host = [("host", host)];
        assert_eq!(read(admin, "/backends", &host).await, StatusCode::FORBIDDEN, "{host:?}");
    }
    assert_eq!(read(admin, "/backends", OWN_HOST).await, StatusCode::OK);
}

#[tokio::test]
async fn with_the_right_token_every_host_may_call() {
    let (_gateway, admin) =
        configured("admin = \"0.0.0.0:0\"\nadmin_token = \"open sesame\"").await;
    let foreign = ("host", "monitoring.example");
    let right = ("authorization", "Bearer open sesame");
    assert_eq!(read(admin, "/backends", &[foreign, right]).await, StatusCode::OK);
    assert_eq!(change(admin, &[foreign, right]).await, StatusCode::OK);
    assert!(Listener::try_new(admin, &[foreign, right]).await.is_ok());
    let same_origin = ("origin", "https://monitoring.example");
    assert_eq!(change(admin, &[foreign, right, same_origin]).await, StatusCode::OK);
    let other_origin = ("origin", "http://evil.example");
    let status = change(admin, &[foreign, right, other_origin]).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "an origin is checked with a token too");
    for wrong in [None, Some(("authorization", "Bearer open"))] {
        let headers: Vec<_> = [foreign].into_iter().chain(wrong).collect();
        assert_eq!(read(admin, "/backends", &headers).await, StatusCode::FORBIDDEN, "{wrong:?}");
    }
}
