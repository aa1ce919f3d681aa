//! Which backends are trusted, and what is said of the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use tokio::io::AsyncWriteExt;
use tower_sticky::{
    NotSent,
    proxy::{ClientTls, Roots, TlsVersion, Upstream},
};

use super::support::{Authority, Config, Server, config, config_of, reply, says_how};
use crate::support::*;

/// Why a request was not sent. It is one with a body, which must come back untouched.
async fn refusal(upstream: &Upstream) -> String {
    let body = stream(&["secret"]);
    let request = Request::post("/").header("host", "shop").body(body).unwrap();
    let error = send(upstream, request).await.unwrap_err();
    let error = error.downcast::<NotSent<Request<Channel>>>().expect("the request was not sent");
    let text = error.to_string();
    let (request, _) = error.into_parts();
    assert!(!request.unwrap().body().polled, "the body comes back untouched");
    text
}

/// A server that must not receive a request.
async fn silent(config: Config) -> (Server, Arc<AtomicBool>) {
    let asked = Arc::new(AtomicBool::new(false));
    let flag = asked.clone();
    let server = Server::start(config, move |_| {
        flag.store(true, SeqCst);
        async { reply("no") }
    });
    (server.await, asked)
}

#[tokio::test]
async fn a_verified_backend_serves() {
    let authority = Authority::unique();
    let server =
        Server::start(config(&authority.server(&["127.0.0.1"]), &[], None), says_how).await;
    let upstream = server.upstream(authority.trusted());
    for _ in 0..3 {
        let response = send(&upstream, get("/a")).await.unwrap();
        assert_eq!(text(response).await, "HTTP/1.1 - shop /a");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 1, "the connection is kept");
    assert_eq!(seen[0].sni, None, "an address is not sent as a name");
}

#[tokio::test]
async fn the_name_is_that_of_the_url_or_the_configured_one_and_never_the_host() {
    let authority = Authority::unique();
    let server = Server::start(config(&authority.server(&["app.test"]), &[], None), says_how).await;
    let tls = authority.trusted().server_name("app.test").unwrap();
    let response = send(&server.upstream(tls), get("/")).await.unwrap();
    assert_eq!(text(response).await, "HTTP/1.1 - shop /");
    assert_eq!(server.seen()[0].sni.as_deref(), Some("app.test"));

    let url = format!("https://app.test:{}", server.addr.port());
    let upstream = Upstream::with_tls(&url, authority.trusted()).unwrap();
    let upstream = upstream
        .resolver(|_| async { Ok::<_, std::io::Error>(vec!["127.0.0.1".parse().unwrap()]) });
    assert_eq!(send(&upstream, get("/")).await.unwrap().status(), 200);
    assert_eq!(server.seen()[1].sni.as_deref(), Some("app.test"));
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_is_explained() {
    let (authority, other) = (Authority::unique(), Authority::unique());
    for (identity, why) in [
        (authority.valid(-9, -3), "certificate expired 3 days ago"),
        (authority.valid(3, 9), "certificate is not valid for another 3 days"),
        (authority.server(&["a.test"]), "certificate is for \"a.test\", not \"127.0.0.1\""),
        (other.server(&["127.0.0.1"]), "certificate is signed by an unknown authority"),
        (authority.client(), "certificate is for"),
    ] {
        let (server, asked) = silent(config(&identity, &["h2", "http/1.1"], None)).await;
        for mode in [false, true] {
            let upstream = server.upstream(authority.trusted()).http2(mode);
            let text = refusal(&upstream).await;
            assert!(text.contains(why), "{text}");
        }
        assert!(!asked.load(SeqCst), "no request leaves before the backend is verified");
    }
}

#[tokio::test]
async fn an_insecure_backend_is_not_verified_and_named_so() {
    let server = config(&Authority::unique().server(&["a.test"]), &[], None);
    let server = Server::start(server, says_how).await;
    let tls = ClientTls::new();
    assert!(!tls.is_insecure());
    let tls = tls.insecure();
    assert!(tls.is_insecure());
    let upstream = server.upstream(tls);
    assert_eq!(send(&upstream, get("/")).await.unwrap().status(), 200);
    assert!(format!("{upstream:?}").contains("insecure: true"), "{upstream:?}");
}

#[tokio::test]
async fn roots_take_the_place_of_those_that_were_used_before() {
    let (authority, other) = (Authority::unique(), Authority::unique());
    let identity = authority.server(&["127.0.0.1"]);
    let server = Server::start(config(&identity, &[], None), says_how).await;
    let tls = other.trusted();
    let text = refusal(&server.upstream(tls.clone())).await;
    assert!(text.contains("unknown authority"), "{text}");
    let tls = tls.roots(Roots::new().pem(authority.pem().as_bytes()).unwrap());
    assert_eq!(send(&server.upstream(tls), get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_peer_without_tls_is_refused() {
    let plain = raw(|_, mut socket| async move {
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        std::future::pending().await
    })
    .await;
    let url = plain.url.replace("http:", "https:");
    let tls = || Authority::unique().trusted();
    let text = refusal(&Upstream::with_tls(&url, tls()).unwrap()).await;
    assert!(text.contains("does not speak TLS"), "{text}");

    let closing = raw(|_, _| async { Ok(()) }).await;
    let url = closing.url.replace("http:", "https:");
    let text = refusal(&Upstream::with_tls(&url, tls()).unwrap()).await;
    assert!(text.contains("TLS handshake failed"), "{text}");
}

#[tokio::test]
async fn a_handshake_is_bounded() {
    let deaf = unanswering().await;
    let url = deaf.url.replace("http:", "https:");
    let limit = Duration::from_millis(20);
    let tls = Authority::unique().trusted();
    let start = tokio::time::Instant::now();
    let slow = Upstream::with_tls(&url, tls.clone().handshake_timeout(limit)).unwrap();
    let text = refusal(&slow.connect_timeout(Duration::from_secs(60))).await;
    assert!(text.contains("TLS handshake timed out"), "{text}");
    let text = refusal(&Upstream::with_tls(&url, tls).unwrap().connect_timeout(limit)).await;
    assert!(text.contains("timed out"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(2), "within the limits");
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    let server =
        Server::start(config(&identity, &["h2", "http/1.1"], Some(&authority)), says_how).await;
    let me = authority.client();
    let tls = authority.trusted();
    let known = tls.clone().client_identity(me.cert.as_bytes(), me.key.as_bytes()).unwrap();
    assert_eq!(send(&server.upstream(known.clone()), get("/")).await.unwrap().status(), 200);

    // The settings of HTTP/2 come after the verification.
    let text = refusal(&server.upstream(tls.clone()).http2(true)).await;
    assert!(text.contains("client certificate required"), "{text}");
    let foreign = Authority::unique().client();
    let foreign = tls.clone().client_identity(foreign.cert.as_bytes(), foreign.key.as_bytes());
    let text = refusal(&server.upstream(foreign.unwrap()).http2(true)).await;
    assert!(text.contains("client certificate refused"), "{text}");

    let error = send(&server.upstream(tls), get("/")).await.unwrap_err();
    assert!(error.to_string().contains("client certificate required"), "{error}");
}

#[tokio::test]
async fn the_oldest_version_can_be_set() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    let only_12 = config_of(&identity, &[], None, &[&rustls::version::TLS12]);
    let server = Server::start(only_12, says_how).await;
    assert_eq!(send(&server.upstream(authority.trusted()), get("/")).await.unwrap().status(), 200);
    let newer = server.upstream(authority.trusted().min_version(TlsVersion::Tls13));
    let text = refusal(&newer).await;
    assert!(text.contains("no version"), "{text}");
}

#[test]
fn wrong_options_are_refused_when_built() {
    let authority = Authority::unique();
    let (a, b) = (authority.client(), authority.client());
    let tls = ClientTls::new();
    let refused = |cert: &str, key: &str| {
        tls.clone().client_identity(cert.as_bytes(), key.as_bytes()).unwrap_err().to_string()
    };
    assert!(refused(&a.cert, &b.key).contains("does not belong"));
    assert!(refused(&a.key, &a.key).contains("no certificate"));
    assert!(refused(&a.cert, &a.cert).contains("no private key"));
    assert!(tls.clone().server_name("a b").unwrap_err().to_string().contains("\"a b\""));
    assert!(Roots::new().pem(b"").unwrap_err().to_string().contains("no certificate"));
    let error = Roots::new().file("/no/such/file").unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");

    let error = Upstream::new("http://a").unwrap().tls(tls.clone()).unwrap_err().to_string();
    assert!(error.contains("https"), "{error}");
    let none = tls.roots(Roots::new());
    let error = Upstream::with_tls("https://a", none).unwrap_err().to_string();
    assert!(error.contains("no root certificates"), "{error}");
}
