//! Every affinity type of the file.

use std::collections::BTreeSet;

use http::Method;

use crate::{
    backends::{Backend, echo, talking},
    client::{Answer, Client, send},
    process::Gateway,
};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// A gateway with this configuration in front of these backends, in this order.
async fn gateway(config: &str, backends: &[(&str, &Backend)]) -> Gateway {
    let mut file = format!("[strategy]\ntype = \"round-robin\"\n{config}\n");
    for (id, backend) in backends {
        file.push_str(&backend.entry(id));
    }
    Gateway::configured_with(&file, &[("STICKY_KEY", KEY)]).await
}

/// The backends `a`, `b` and `c`.
async fn three() -> [Backend; 3] {
    [echo("a").await, echo("b").await, echo("c").await]
}

fn named([a, b, c]: &[Backend; 3]) -> [(&'static str, &Backend); 3] {
    [("a", a), ("b", b), ("c", c)]
}

async fn ask(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.addr, Method::GET, path, headers, "").await
}

#[tokio::test]
async fn a_header_carries_the_token_both_ways() {
    let (a, b) = (echo("a").await, echo("b").await);
    let gateway = gateway(
        "[[affinity]]\ntype = \"header\"\nname = \"x-sticky\"\nkeys = [\"env:STICKY_KEY\"]",
        &[("a", &a), ("b", &b)],
    )
    .await;
    let first = ask(&gateway, "/", &[]).await;
    let token = first.header("x-sticky").to_owned();
    assert_eq!(token.len(), 90);
    for _ in 0..4 {
        let next = ask(&gateway, "/", &[("x-sticky", &token)]).await;
        assert_eq!((next.backend(), next.header("x-sticky")), (first.backend(), ""));
        assert!(next.json()["headers"].get("x-sticky").is_none(), "the token is not forwarded");
    }
}

#[tokio::test]
async fn a_key_of_the_request_chooses_the_backend() {
    let backends = three().await;
    let all = named(&backends);
    let by_header = gateway("[[affinity]]\ntype = \"key\"\nheader = \"x-user-id\"", &all).await;
    let by_cookie = gateway("[[affinity]]\ntype = \"key\"\ncookie = \"uid\"", &all).await;
    let [a, b, c] = all;
    let by_query = gateway("[[affinity]]\ntype = \"key\"\nquery = \"user\"", &[c, b, a]).await;
    let mut backends = BTreeSet::new();
    for user in 0..12 {
        let user = format!("user-{user}");
        let first = ask(&by_header, "/", &[("x-user-id", &user)]).await;
        assert_eq!(first.header("set-cookie"), "", "a key sets no cookie");
        let cookie = format!("x=1; uid={user}");
        let answer = ask(&by_cookie, "/", &[("cookie", &cookie)]).await;
        assert_eq!(answer.backend(), first.backend());
        assert_eq!(
            answer.json()["headers"]["cookie"][0],
            cookie,
            "the cookie of the application is forwarded"
        );
        let path = format!("/?user={user}");
        assert_eq!(
            ask(&by_query, &path, &[]).await.backend(),
            first.backend(),
            "the order of parameters does not matter"
        );
        backends.insert(first.backend());
    }
    assert_eq!(backends.len(), 3);
}

#[tokio::test]
async fn the_client_address_behind_a_trusted_proxy_chooses_the_backend() {
    let backends = three().await;
    let all = named(&backends);
    let address = "[[affinity]]\ntype = \"client-ip\"\nipv4_prefix = 24";
    let open = gateway(address, &all).await;
    let file = format!("[failover]\npanic = false\n{address}");
    let trusting = Gateway::configured(&format!(
        "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]\n{file}\n{}",
        all.map(|(id, backend)| backend.entry(id)).concat(),
    ))
    .await;
    let mut backends = BTreeSet::new();
    let alone = ask(&open, "/", &[]).await.backend();
    for net in 0..12 {
        let client = format!("203.0.{net}.9, 10.0.0.1");
        let spoofed = ask(&open, "/", &[("x-forwarded-for", &client)]).await;
        assert_eq!(spoofed.backend(), alone, "an untrusted peer cannot choose the address");
        let own = ask(&trusting, "/", &[("x-forwarded-for", &client)]).await.backend();
        let neighbour = format!("6.6.6.6, 203.0.{net}.77");
        let answer = ask(&trusting, "/", &[("x-forwarded-for", &neighbour)]).await;
        assert_eq!(answer.backend(), own, "the right-most untrusted address counts, by its prefix");
        backends.insert(own);
    }
    assert_eq!(backends.len(), 3);
}

#[tokio::test]
async fn a_chain_of_cookie_and_user_agrees_on_two_gateways() {
    let backends = three().await;
    let [a, b, c] = named(&backends);
    let chain = "[[affinity]]\ntype = \"cookie\"\nkeys = [\"env:STICKY_KEY\"]\nidle_timeout = \"30m\"\n\
                 [[affinity]]\ntype = \"key\"\nheader = \"x-user-id\"\n\
                 [[affinity]]\ntype = \"client-ip\"";
    let one = gateway(chain, &[a, b, c]).await;
    let mut clients = Vec::new();
    for user in 0..6 {
        let user = format!("user-{user}");
        let mut client = Client::new(one.addr);
        let own = client.send(Method::GET, "/", &[("x-user-id", &user)], "").await.backend();
        clients.push((client.jar.remove("SERVER_ID").unwrap(), own));
    }
    drop(one);
    let two = gateway(chain, &[c, a, b]).await;
    for (token, own) in clients {
        let cookie = format!("SERVER_ID={token}");
        let answer = ask(&two, "/", &[("cookie", &cookie), ("x-user-id", "someone else")]).await;
        assert_eq!(answer.backend(), own, "the cookie wins, on the second gateway too");
        assert_eq!(answer.header("set-cookie"), "");
    }
}

#[tokio::test]
async fn the_application_header_controls_the_session() {
    let (a, b) = (talking("a").await, talking("b").await);
    let gateway = gateway(
        "[application]\nheader = \"x-sticky-action\"\n\
         [[affinity]]\ntype = \"cookie\"\nformat = \"plain\"",
        &[("a", &a), ("b", &b)],
    )
    .await;
    let say = async |word: &str, cookie: &str| {
        let answer = ask(&gateway, "/", &[("x-say", word), ("cookie", cookie)]).await;
        assert_eq!(answer.header("x-sticky-action"), "", "the header is removed from the response");
        answer
    };
    assert_eq!(say("no-pin", "x=1").await.header("set-cookie"), "");
    let moved = say("move b", "SERVER_ID=a").await;
    assert_eq!(moved.backend(), "a");
    assert!(moved.header("set-cookie").starts_with("SERVER_ID=b;"), "the next request goes to b");
    let ended = say("end", "SERVER_ID=a").await;
    assert!(ended.header("set-cookie").contains("Max-Age=0"), "{:?}", ended.headers);
}

#[tokio::test]
async fn the_application_id_identifies_the_session() {
    let (a, b) = (crate::backends::sessions("a").await, crate::backends::sessions("b").await);
    let all = [("a", &a), ("b", &b)];
    let envelope =
        "[[affinity]]\ntype = \"envelope\"\ncookie = \"JSESSIONID\"\nkeys = [\"env:STICKY_KEY\"]";
    let learned = "[[affinity]]\ntype = \"learned\"\ncookie = \"JSESSIONID\"\nidle_timeout = \"5m\"\ncapacity = 1000";
    // An unreachable Redis fails no request.
    let shared = "[[affinity]]\ntype = \"learned\"\ncookie = \"JSESSIONID\"\nkeys = [\"env:STICKY_KEY\"]\nstore = \"redis://127.0.0.1:1\"\nstore_timeout = \"10ms\"\nstore_prefix = \"shop:\"\non_store_down = \"open\"";
    for (config, opaque) in [(envelope, true), (learned, false), (shared, false)] {
        let gateway = gateway(config, &all).await;
        let mut backends = BTreeSet::new();
        for _ in 0..4 {
            let mut client = Client::new(gateway.addr);
            let own = client.get("/login").await.backend();
            let value = client.jar["JSESSIONID"].clone();
            assert_eq!(value.contains("id-of"), !opaque, "{value}");
            for _ in 0..4 {
                let answer = client.get("/").await;
                assert_eq!(answer.backend(), own, "the session stays on its backend");
                assert_eq!(
                    answer.json()["cookie"],
                    format!("JSESSIONID=id-of-{own}"),
                    "the backend gets its own id"
                );
            }
            client.get("/logout").await;
            backends.insert(own);
        }
        assert_eq!(backends.len(), 2);
    }
}

#[tokio::test]
async fn session_headers_reach_the_backend() {
    let (a, b) = (echo("a").await, echo("b").await);
    let sealed = "[[affinity]]\ntype = \"header\"\nname = \"x-sid\"\nkeys = [\"env:STICKY_KEY\"]";
    let config = format!("{sealed}\n[session_headers]\nenabled = true\nreplicas = 1");
    let telling = gateway(&config, &[("a", &a), ("b", &b)]).await;
    let forged = [("x-sticky-epoch", "1"), ("x-sticky-from", "z"), ("x-sticky-session", "00")];
    let first = ask(&telling, "/", &forged).await;
    let header = |answer: &Answer, name: &str| -> String {
        answer.json()["headers"][name][0].as_str().unwrap_or("").to_owned()
    };
    assert_eq!(header(&first, "x-sticky-outcome"), "assigned");
    assert_eq!(header(&first, "x-sticky-backend"), "a");
    assert_eq!(header(&first, "x-sticky-replicas"), "b");
    assert_eq!(header(&first, "x-sticky-from"), "", "the header from the client is removed");
    let token = first.header("x-sid").to_owned();
    let next = ask(&telling, "/", &[("x-sid", &token)]).await;
    assert_eq!(header(&next, "x-sticky-outcome"), "pinned");
    for name in ["x-sticky-session", "x-sticky-epoch"] {
        assert!(header(&first, name).len() >= 13, "{name}");
        assert_eq!(header(&next, name), header(&first, name), "{name} stays");
    }
    let silent = gateway(sealed, &[("a", &a), ("b", &b)]).await;
    let answer = ask(&silent, "/", &forged).await;
    let headers = answer.json()["headers"].as_object().unwrap().clone();
    assert!(
        !headers.keys().any(|name| name.starts_with("x-sticky-")),
        "the headers from the client are removed: {headers:?}"
    );
}

#[tokio::test]
async fn a_key_before_a_cookie_decides_and_sets_no_cookie() {
    let backends = three().await;
    let all = named(&backends);
    let key = "[[affinity]]\ntype = \"key\"\nheader = \"x-user-id\"\n";
    let by_key = gateway(key, &all).await;
    let cookie = "[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"";
    let both = gateway(&format!("{key}{cookie}"), &all).await;
    for user in 0..6 {
        let user = format!("user-{user}");
        let own = ask(&by_key, "/", &[("x-user-id", &user)]).await.backend();
        for id in ["a", "b", "c"] {
            let cookie = format!("SERVER_ID={id}");
            let answer = ask(&both, "/", &[("x-user-id", &user), ("cookie", &cookie)]).await;
            assert_eq!((answer.backend(), answer.header("set-cookie")), (own.clone(), ""));
            assert_eq!(ask(&both, "/", &[("cookie", &cookie)]).await.backend(), id);
        }
    }
}

#[tokio::test]
async fn strict_statuses_are_those_of_the_file() {
    let a = echo("a").await;
    let cookie = "[[affinity]]\ntype = \"cookie\"\nkeys = [\"env:STICKY_KEY\"]\n";
    for (strict, status) in [("", 200), ("[strict]", 410), ("[strict]\nstatus = 404", 404)] {
        let gateway = gateway(&format!("{cookie}{strict}"), &[("a", &a)]).await;
        let answer = ask(&gateway, "/", &[("cookie", "SERVER_ID=nonsense")]).await;
        assert_eq!(answer.status.as_u16(), status, "{strict:?}");
        let deleted = answer.header("set-cookie").contains("Max-Age=0");
        assert_eq!(deleted, status != 200, "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn every_strategy_spreads_new_sessions_by_weight() {
    let [a, b, c] = three().await;
    let backends = a.entry("a") + "weight = 2\n" + &b.entry("b") + &c.entry("c");
    for strategy in ["", "[strategy]\ntype = \"round-robin\"\n"] {
        let gateway = Gateway::configured(&format!("{strategy}{backends}")).await;
        let mut got = std::collections::BTreeMap::<String, usize>::new();
        for _ in 0..40 {
            *got.entry(ask(&gateway, "/", &[]).await.backend()).or_default() += 1;
        }
        assert_eq!((got["a"], got["b"], got["c"]), (20, 10, 10), "{strategy:?}");
    }
}
