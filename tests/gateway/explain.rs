//! `POST /explain` of the gateway, for each way to recognise a session: what it says of a request is what then happens
//! to it.

use std::net::SocketAddr;

use http::Method;
use serde_json::{Value, json};

use crate::{
    backends::{Backend, echo, sessions},
    client::{self, Answer, Client, send},
    config::KEY,
    process::Gateway,
};

/// A gateway over the backends `a` and `b`, and its admin interface.
struct Setup {
    gateway: Gateway,
    admin: SocketAddr,
    _backends: [Backend; 2],
}

impl Setup {
    /// With this section `[[affinity]]`, and a key where it has room for one.
    async fn new(affinity: &str) -> Self {
        Self::over([echo("a").await, echo("b").await], affinity).await
    }

    /// The same over applications with sessions of their own.
    async fn of_applications(affinity: &str) -> Self {
        Self::over([sessions("a").await, sessions("b").await], affinity).await
    }

    async fn over(backends: [Backend; 2], affinity: &str) -> Self {
        let [a, b] = &backends;
        let keys = format!("keys = [\"base64:{KEY}\"]");
        let file = format!(
            "admin = \"127.0.0.1:0\"\nserver_timing = true\n[[affinity]]\n{}\n{}{}",
            affinity.replace("KEYS", &keys),
            a.entry("a"),
            b.entry("b")
        );
        let mut gateway = Gateway::configured(&file).await;
        let admin = gateway.admin_addr().await;
        Self { gateway, admin, _backends: backends }
    }

    async fn set_mode(&self, backend: &str, mode: &str) {
        let path = format!("/backends/{backend}");
        let body = json!({ "mode": mode }).to_string();
        let answer = send(self.admin, Method::PATCH, &path, &[], &body).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// The explanation of a request with this header, after which the request is sent: what was said comes true. The
    /// explanation contains no `secret`.
    async fn explain(&self, header: (&str, &str), secret: &str) -> Value {
        let (name, value) = header;
        let body = match name {
            "cookie" => json!({ "cookie": value }),
            _ => json!({ "header": format!("{name}: {value}") }),
        };
        let said = send(self.admin, Method::POST, "/explain", &[], &body.to_string()).await;
        assert!(said.status.is_success(), "{said:?}");
        assert!(!said.text().contains(secret), "it shows a secret: {}", said.text());
        let answer = send(self.gateway.addr, Method::GET, "/", &[header], "").await;
        comes_true(&said.json(), &answer);
        said.json()
    }
}

/// Checks that this response is what was foreseen.
fn comes_true(said: &Value, answer: &Answer) {
    let (now, happened) = (&said["now"], answer.header("server-timing"));
    let outcome = now["outcome"].as_str().unwrap();
    match now["backend"].as_str() {
        Some(backend) => {
            assert_eq!(happened, format!("sticky;desc=\"{outcome} {backend}\""), "{said}");
        }
        // The strategy, or nobody.
        None => assert!(happened.starts_with(&format!("sticky;desc=\"{outcome}")), "{said}"),
    }
}

/// The other one of the two backends.
fn other(backend: &str) -> &'static str {
    if backend == "a" { "b" } else { "a" }
}

/// What an explanation says of the only thing that it has found: its kind and what is wrong with it; and what would
/// happen now, and why. Empty where it says nothing.
fn verdict(said: &Value) -> [&str; 4] {
    assert_eq!(said["findings"].as_array().unwrap().len(), 1, "{said}");
    let (finding, now) = (&said["findings"][0], &said["now"]);
    [&finding["kind"], &finding["problem"], &now["outcome"], &now["reason"]]
        .map(|word| word.as_str().unwrap_or_default())
}

/// Whose a request with this header is, and where it goes when that backend is disabled.
async fn belongs(setup: &Setup, header: (&str, &str), secret: &str, kind: &str, away: &str) {
    let said = setup.explain(header, secret).await;
    assert_eq!(verdict(&said), [kind, "", "pinned", ""], "{said}");
    let home = said["now"]["backend"].as_str().unwrap();
    assert_eq!(said["findings"][0]["valid"], true, "{said}");
    setup.set_mode(home, "disabled").await;
    let said = setup.explain(header, secret).await;
    assert_eq!(verdict(&said), [kind, "", away, "disabled"], "{said}");
    assert_eq!(said["now"]["backend"], other(home), "{said}");
}

#[tokio::test]
async fn a_sealed_cookie_is_explained() {
    let timeouts = "idle_timeout = \"30m\"\nabsolute_timeout = \"8h\"";
    let affinity = format!("type = \"cookie\"\nname = \"SERVER_ID\"\n{timeouts}\nKEYS");
    let setup = Setup::new(&affinity).await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/").await.backend();
    let token = client.jar["SERVER_ID"].clone();
    let cookie = format!("SERVER_ID={token}");
    let said = setup.explain(("cookie", &cookie), &token).await;
    let finding = &said["findings"][0];
    assert_eq!((&said["pool"], &finding["key"]), (&json!("default"), &json!(0)), "{said}");
    assert_eq!(
        (&finding["carrier"], &finding["backend"]),
        (&json!("cookie SERVER_ID"), &json!(home))
    );
    let issued = finding["issued"].as_str().expect("when it was issued");
    for time in ["last_used", "expires_if_idle", "expires"] {
        let time = finding[time].as_str().expect("a time by RFC 3339");
        assert!(time >= issued, "{said}");
    }
    assert!(finding["epoch"].is_u64() && finding["session"].is_string(), "{said}");
    belongs(&setup, ("cookie", &cookie), &token, "sealed token", "moved").await;

    // The last character has bits that no byte needs; the first one is the version.
    let (start, end) = token.split_at(token.len() / 2);
    let flipped = if end.starts_with('A') { "B" } else { "A" };
    let forged = format!("SERVER_ID={start}{flipped}{}", &end[1..]);
    let said = setup.explain(("cookie", &forged), end).await;
    let expected = ["sealed token", "forged", "assigned", "forged"];
    assert_eq!(verdict(&said), expected, "{said}");
}

#[tokio::test]
async fn a_plain_cookie_is_explained() {
    let setup = Setup::new("type = \"cookie\"\nname = \"SERVER_ID\"\nformat = \"plain\"").await;
    let said = setup.explain(("cookie", "SERVER_ID=b"), "SERVER_ID=b").await;
    assert_eq!(said["now"]["backend"], "b", "{said}");
    assert_eq!(said["findings"][0]["issued"], Value::Null, "a plain token has no dates");
    belongs(&setup, ("cookie", "SERVER_ID=b"), "SERVER_ID=b", "plain token", "moved").await;
    let said = setup.explain(("cookie", "SERVER_ID=c"), "SERVER_ID=c").await;
    let expected = ["plain token", "unknown", "assigned", "unknown"];
    assert_eq!(verdict(&said), expected, "{said}");
    let said = setup.explain(("cookie", "OTHER=b"), "OTHER=b").await;
    assert_eq!((&said["findings"], &said["now"]["outcome"]), (&json!([]), &json!("assigned")));
}

#[tokio::test]
async fn a_token_in_a_header_is_explained() {
    let setup = Setup::new("type = \"header\"\nname = \"x-sticky\"\nKEYS").await;
    let token = client::get(setup.gateway.addr, "/").await.header("x-sticky").to_owned();
    let said = setup.explain(("x-sticky", &token), &token).await;
    assert_eq!(said["findings"][0]["carrier"], "header x-sticky", "{said}");
    belongs(&setup, ("x-sticky", &token), &token, "sealed token", "moved").await;
    let said = setup.explain(("x-sticky", "nonsense"), "nonsense").await;
    let expected = ["sealed token", "malformed", "assigned", "malformed"];
    assert_eq!(verdict(&said), expected, "{said}");
}

#[tokio::test]
async fn a_learned_id_is_explained() {
    let setup = Setup::of_applications("type = \"learned\"\ncookie = \"JSESSIONID\"").await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/login").await.backend();
    let id = client.jar["JSESSIONID"].clone();
    assert_eq!(id, format!("id-of-{home}"));
    let cookie = format!("JSESSIONID={id}");
    let said = setup.explain(("cookie", &cookie), &id).await;
    assert_eq!(said["now"]["backend"], home, "{said}");
    belongs(&setup, ("cookie", &cookie), &id, "learned id", "moved").await;
    let said = setup.explain(("cookie", "JSESSIONID=never-seen"), "never-seen").await;
    assert_eq!(said["now"]["outcome"], "assigned", "{said}");
    assert_eq!(said["findings"][0]["backend"], Value::Null, "{said}");
}

#[tokio::test]
async fn an_envelope_is_explained() {
    let setup = Setup::of_applications("type = \"envelope\"\ncookie = \"JSESSIONID\"\nKEYS").await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/login").await.backend();
    let wrapped = client.jar["JSESSIONID"].clone();
    let cookie = format!("JSESSIONID={wrapped}");
    let said = setup.explain(("cookie", &cookie), &wrapped).await;
    assert_eq!((&said["now"]["backend"], &said["findings"][0]["key"]), (&json!(home), &json!(0)));
    assert!(!said.to_string().contains("id-of-"), "the application's own id is usable: {said}");
    belongs(&setup, ("cookie", &cookie), &wrapped, "envelope", "moved").await;
}

#[tokio::test]
async fn a_key_is_explained() {
    let setup = Setup::new("type = \"key\"\nheader = \"x-user-id\"").await;
    for user in ["ann-1", "bob-2", "eve-3", "joe-4"] {
        let said = setup.explain(("x-user-id", user), user).await;
        assert_eq!(verdict(&said), ["key", "", "pinned", ""], "{said}");
        assert_eq!(said["findings"][0]["carrier"], "header x-user-id", "{said}");
    }
    let home = setup.explain(("x-user-id", "ann-1"), "ann-1").await["now"]["backend"].clone();
    let home = home.as_str().unwrap();
    // A disabled backend owns no keys: the next one in their rank does.
    setup.set_mode(home, "disabled").await;
    let said = setup.explain(("x-user-id", "ann-1"), "ann-1").await;
    assert_eq!(verdict(&said), ["key", "", "pinned", ""], "{said}");
    assert_eq!(said["now"]["backend"], other(home), "{said}");
    let said = setup.explain(("x-other", "ann-1"), "ann-1").await;
    assert_eq!((&said["findings"], &said["now"]["outcome"]), (&json!([]), &json!("assigned")));
}

#[tokio::test]
async fn a_route_is_explained() {
    let route =
        |source: &str| format!("type = \"route\"\n{source} = \"JSESSIONID\"\nseparator = \".\"");
    let path = route("path_parameter");
    let setup = Setup::new(&format!("{}\n[[affinity]]\n{path}", route("cookie"))).await;
    let cookie = ("cookie", "JSESSIONID=0A1B2C.b");
    let said = setup.explain(cookie, "0A1B2C").await;
    assert_eq!((&said["now"]["outcome"], &said["now"]["backend"]), (&json!("pinned"), &json!("b")));
    let head = "GET /cart;JSESSIONID=0A1B2C.a?x=y HTTP/1.1";
    let body = json!({ "request": head }).to_string();
    let said = send(setup.admin, Method::POST, "/explain", &[], &body).await;
    let path = head.split(' ').nth(1).unwrap();
    comes_true(&said.json(), &client::get(setup.gateway.addr, path).await);
    assert_eq!(said.json()["now"]["backend"], "a", "{said:?}");
    belongs(&setup, cookie, "0A1B2C", "id with a route", "borrowed").await;
    let said = setup.explain(("cookie", "JSESSIONID=0A1B2C.c"), "0A1B2C").await;
    let expected = ["id with a route", "unknown", "assigned", "unknown"];
    assert_eq!(verdict(&said), expected, "{said}");
}
