//! The cookie through the gateway, case by case: which tokens are pins, and what the client and the backend
//! see of them.

use std::time::Duration;

use http::Method;

use crate::{
    backends::{Backend, echo, sessions},
    client::{self, Answer, send},
    process::Gateway,
};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// A gateway with this cookie in front of backends `a` and `b`.
async fn gateway(cookie: &str, backends: [&Backend; 2]) -> Gateway {
    let [a, b] = backends.map(Backend::url);
    let file = format!(
        "server_timing = true\n[strategy]\ntype = \"round-robin\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"sid\"\n{cookie}\n\
         [[backend]]\nid = \"a\"\nurl = \"{a}\"\n[[backend]]\nid = \"b\"\nurl = \"{b}\"\n"
    );
    Gateway::configured_with(&file, &[("STICKY_KEY", KEY)]).await
}

async fn ask(gateway: &Gateway, headers: &[(&str, &str)]) -> Answer {
    send(gateway.addr, Method::GET, "/", headers, "").await
}

fn outcome(answer: &Answer) -> &str {
    answer.header("server-timing").strip_prefix("sticky;desc=\"").unwrap().trim_end_matches('"')
}

fn token(answer: &Answer) -> String {
    let field = answer.header("set-cookie").strip_prefix("sid=").unwrap();
    field.split(';').next().unwrap().to_owned()
}

#[tokio::test]
async fn every_bad_token_is_replaced() {
    let (a, b) = (echo("a").await, echo("b").await);
    let sealed = gateway("keys = [\"env:STICKY_KEY\"]", [&a, &b]).await;
    let good = token(&ask(&sealed, &[]).await);
    let mut forged = good.clone().into_bytes();
    forged[30] ^= 1;
    let forged = String::from_utf8_lossy(&forged).into_owned();
    let long = "x".repeat(6000);
    for bad in ["", "a", "\"", "%00", &good[1..], &forged, &long] {
        let answer = ask(&sealed, &[("cookie", &format!("sid={bad}"))]).await;
        assert!(outcome(&answer).starts_with("assigned"), "{bad:?}: {}", outcome(&answer));
        assert_eq!(token(&answer).len(), 90, "{bad:?} is replaced");
    }
    let plain = gateway("format = \"plain\"", [&a, &b]).await;
    for bad in ["c", "A", "a b", "a%20"] {
        let answer = ask(&plain, &[("cookie", &format!("sid={bad}"))]).await;
        assert!(outcome(&answer).starts_with("assigned"), "{bad:?}");
        assert!(["a", "b"].contains(&&*token(&answer)), "{bad:?} is replaced");
    }
}

#[tokio::test]
async fn the_first_usable_cookie_of_the_exact_name_wins() {
    let (a, b) = (echo("a").await, echo("b").await);
    let gateway = gateway("format = \"plain\"", [&a, &b]).await;
    for (cookies, rest) in [
        (&["sid=b"][..], None),
        (&["x=1; sid=b; y=\"2\""], Some("x=1; y=\"2\"")),
        (&["sid=gone; sid=\"b\"; sid=a"], None),
        (&["x=1", "sid=b", "y=2"], Some("x=1")),
        (&["xsid=a; SID=a; sid=b"], Some("xsid=a; SID=a")),
    ] {
        let headers: Vec<_> = cookies.iter().map(|cookie| ("cookie", *cookie)).collect();
        let answer = ask(&gateway, &headers).await;
        assert_eq!(
            (outcome(&answer), answer.header("set-cookie")),
            ("pinned b", ""),
            "{cookies:?}"
        );
        let seen = answer.json()["headers"]["cookie"][0].as_str().map(str::to_owned);
        assert!(
            seen.as_deref().is_none_or(|seen| !seen.contains("sid=b")),
            "{cookies:?} became {seen:?}"
        );
        assert!(seen.as_deref().unwrap_or("").starts_with(rest.unwrap_or("")), "{seen:?}");
    }
}

#[tokio::test]
async fn cookie_attributes_and_cache_control_are_set() {
    let (a, b) = (echo("a").await, echo("b").await);
    let permanent = "keys = [\"env:STICKY_KEY\"]\nlifetime = \"permanent\"\nabsolute_timeout = \"1h\"\n\
                     secure = \"always\"\nsame_site = \"none\"\npath = \"/shop\"\ndomain = \"example.org\"";
    let gateway_in_shop = gateway(permanent, [&a, &b]).await;
    let answer = ask(&gateway_in_shop, &[]).await;
    assert_eq!(
        answer.header("set-cookie"),
        "",
        "a request outside the path of the cookie gets none"
    );
    let answer = send(gateway_in_shop.addr, Method::GET, "/shop/cart", &[], "").await;
    let field = answer.header("set-cookie");
    for part in ["HttpOnly", "SameSite=None", "Secure", "Path=/shop", "Domain=example.org"] {
        assert!(field.contains(part), "{part} in {field}");
    }
    assert!(field.ends_with("Max-Age=3600"), "{field}");
    assert_eq!(answer.header("cache-control"), "private, no-cache=\"set-cookie\"");
    // An untrusted peer cannot make a request secure.
    let auto = gateway("format = \"plain\"", [&a, &b]).await;
    let answer = ask(&auto, &[("x-forwarded-proto", "https")]).await;
    assert_eq!(answer.header("set-cookie"), "sid=a; HttpOnly; SameSite=Lax; Path=/");
}

#[tokio::test]
async fn a_cookie_of_the_same_name_from_the_backend_is_replaced_or_preserved() {
    let (a, b) = (sessions("a").await, sessions("b").await);
    // The application has a cookie of the same name.
    let ours = "format = \"plain\"\nname = \"JSESSIONID\"";
    let files = ["", "conflict = \"preserve\""].map(|conflict| {
        format!(
            "[[affinity]]\ntype = \"cookie\"\n{ours}\n{conflict}\n\
             [[backend]]\nid = \"a\"\nurl = \"{}\"\n[[backend]]\nid = \"b\"\nurl = \"{}\"\n",
            a.url(),
            b.url()
        )
    });
    for (file, theirs) in files.iter().zip([false, true]) {
        let gateway = Gateway::configured(file).await;
        let answer = send(gateway.addr, Method::GET, "/login", &[], "").await;
        let field = answer.header("set-cookie");
        assert_eq!(field.contains("id-of"), theirs, "{field}");
    }
}

#[tokio::test]
async fn sessions_expire() {
    let (a, b) = (echo("a").await, echo("b").await);
    let timeouts = "keys = [\"env:STICKY_KEY\"]\nidle_timeout = \"2s\"\nabsolute_timeout = \"1h\"";
    let gateway = gateway(timeouts, [&a, &b]).await;
    let first = ask(&gateway, &[]).await;
    let cookie = format!("sid={}", token(&first));
    assert!(outcome(&ask(&gateway, &[("cookie", &cookie)]).await).starts_with("pinned"));
    // The timeout itself is tested: two whole seconds, and a started one.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let answer = ask(&gateway, &[("cookie", &cookie)]).await;
    assert!(outcome(&answer).starts_with("assigned"), "{}", outcome(&answer));
    assert_eq!(token(&answer).len(), 90);
}

#[tokio::test]
async fn every_kind_of_response_sets_the_cookie() {
    let (a, b) = (echo("a").await, echo("b").await);
    let gateway = gateway("format = \"plain\"", [&a, &b]).await;
    for method in [Method::GET, Method::HEAD, Method::POST, Method::OPTIONS, Method::DELETE] {
        let answer = send(gateway.addr, method.clone(), "/", &[], "").await;
        assert!(answer.header("set-cookie").starts_with("sid="), "{method}");
    }
}

/// A cookie without `Path` and `SameSite`, and with `Expires`.
#[tokio::test]
async fn attributes_can_be_left_out_and_expires_added() {
    let (a, b) = (echo("a").await, echo("b").await);
    let cookie = "keys = [\"env:STICKY_KEY\"]\nlifetime = \"permanent\"\nabsolute_timeout = \"1h\"\n\
                  expires = true\npath = \"\"\nsame_site = \"unset\"";
    let gateway = gateway(cookie, [&a, &b]).await;
    let answer = send(gateway.addr, Method::GET, "/deep/path", &[], "").await;
    let field = answer.header("set-cookie");
    assert!(field.contains("; Max-Age=3600; Expires="), "{field}");
    assert!(!field.contains("Path") && !field.contains("SameSite"), "{field}");
}

#[tokio::test]
async fn fields_of_certain_caches_are_made_private() {
    let backend = Backend::raw(|mut stream| async move {
        client::read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nCDN-Cache-Control: public, max-age=600\r\n\
                      Surrogate-Control: public, max-age=600\r\nContent-Length: 0\r\n\r\n";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await;
    })
    .await;
    let gateway = gateway("format = \"plain\"", [&backend, &backend]).await;
    let answer = send(gateway.addr, Method::GET, "/", &[], "").await;
    assert!(answer.header("set-cookie").starts_with("sid="));
    assert_eq!(answer.header("cdn-cache-control"), "private, no-cache=\"set-cookie\", max-age=600");
    assert_eq!(answer.header("surrogate-control"), "no-store");
}
