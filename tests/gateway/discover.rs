//! `[[discover]]`: backends from a real name server.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tower_sticky::discovery::hickory_resolver::proto::{op::ResponseCode, rr::RecordType};

use crate::{
    backends::{Backend, echo, echo_at},
    client::{self, Client, get},
    listener::Listener,
    name_server::{NameServer, Reply},
    process::Gateway,
};

const SHOP: &str = "shop.test.";
const SERVICE: &str = "_http._tcp.shop.test.";
const FAILURES: [Reply; 2] =
    [Reply::Code(ResponseCode::ServFail), Reply::Code(ResponseCode::NXDomain)];

fn config(names: &NameServer, rest: &str) -> String {
    format!(
        "admin = \"127.0.0.1:0\"\nserver_timing = true\nshutdown_timeout = \"1s\"\n\
         [strategy]\ntype = \"round-robin\"\n\
         [upstream]\nresolve_every = \"20ms\"\nnameservers = [\"{}\"]\n{rest}",
        names.addr
    )
}

/// A gateway that asks this name server often, and its admin interface.
async fn gateway(names: &NameServer, rest: &str) -> (Gateway, SocketAddr) {
    let mut gateway = Gateway::configured(&config(names, rest)).await;
    let admin = gateway.admin_addr().await;
    (gateway, admin)
}

/// Reads another file that asks the same name server.
async fn reload(gateway: &Gateway, admin: SocketAddr, names: &NameServer, rest: &str) -> Value {
    gateway.rewrite(&config(names, rest));
    let answer = client::send(admin, Method::POST, "/reload", &[], "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["changed"].clone()
}

/// The ids, URLs and modes of all backends.
async fn backends(admin: SocketAddr) -> Vec<(String, String, String)> {
    let all = get(admin, "/backends").await.json();
    let text = |backend: &Value, key: &str| backend[key].as_str().unwrap().to_owned();
    let one = |backend| (text(backend, "id"), text(backend, "url"), text(backend, "mode"));
    let mut all: Vec<_> = all.as_array().unwrap().iter().map(one).collect();
    all.sort();
    all
}

fn entry(address: &str, mode: &str) -> (String, String, String) {
    (address.to_owned(), format!("http://{address}"), mode.to_owned())
}

fn fail(names: &NameServer, name: &str, reply: &Reply) {
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
        names.set(name, kind, reply.clone());
    }
}

/// Servers of this name at the same port of several addresses.
async fn servers(names: [&'static str; 3]) -> ([Backend; 3], u16) {
    let [a, b, c] = names;
    let first = echo_at(a, "127.0.0.1:0").await;
    let port = first.addr.port();
    let second = echo_at(b, &format!("127.0.0.2:{port}")).await;
    let third = echo_at(c, &format!("127.0.0.3:{port}")).await;
    ([first, second, third], port)
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_become_backends_and_are_drained_when_they_are_gone() {
    let names = NameServer::start().await;
    let (_servers, port) = servers(["1", "2", "3"]).await;
    let [first, second, third] = [1, 2, 3].map(|n| format!("127.0.0.{n}:{port}"));
    names.addresses(SHOP, 0, &["127.0.0.1", "127.0.0.2"]);
    let (mut gateway, admin) =
        gateway(&names, &format!("[[discover]]\ndns = \"shop.test.:{port}\"\n")).await;
    // They are known before the first request is served.
    assert_eq!(backends(admin).await, [entry(&first, "active"), entry(&second, "active")]);
    let mut sessions = [Client::new(gateway.addr), Client::new(gateway.addr)];
    for (session, backend) in sessions.iter_mut().zip(["1", "2"]) {
        assert_eq!(session.get("/").await.backend(), backend);
    }
    let mut listener = Listener::new(admin).await;

    names.addresses(SHOP, 0, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    assert_eq!(listener.next_of("joined").await, json!({ "backend": third }));
    assert_eq!(backends(admin).await[2], entry(&third, "active"));
    for (session, backend) in sessions.iter_mut().zip(["1", "2"]) {
        let answer = session.get("/").await;
        assert_eq!(answer.backend(), backend, "no session moves to a backend that is new");
        assert!(answer.header("server-timing").contains("pinned"));
    }

    for reply in &FAILURES {
        fail(&names, SHOP, reply);
        for _ in 0..2 {
            gateway.stderr_line("the discovery has failed").await;
        }
        let all = [&first, &second, &third].map(|id| entry(id, "active"));
        assert_eq!(backends(admin).await, all, "{reply:?}");
        assert_eq!(sessions[0].get("/").await.backend(), "1", "{reply:?}");
    }

    names.addresses(SHOP, 0, &["127.0.0.2", "127.0.0.3"]);
    let drains = json!({ "backend": first, "from": "active", "to": "draining" });
    assert_eq!(listener.next_of("mode").await, drains);
    assert_eq!(sessions[0].get("/").await.backend(), "1", "its session stays while it drains");
    for _ in 0..4 {
        assert_ne!(get(gateway.addr, "/").await.backend(), "1", "it takes no new session");
    }
    assert_eq!(listener.next_of("left").await, json!({ "backend": first }));
    assert_eq!(backends(admin).await, [entry(&second, "active"), entry(&third, "active")]);
    let answer = sessions[0].get("/").await;
    assert_ne!(answer.backend(), "1");
    assert!(answer.header("server-timing").contains("assigned"), "{:?}", answer.headers);
    assert_eq!(sessions[1].get("/").await.backend(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_of_a_service_keep_their_ids_and_what_the_operator_has_set() {
    let names = NameServer::start().await;
    let (_servers, port) = servers(["1", "2", "3"]).await;
    let fixed = echo("fixed").await;
    names.service(SERVICE, &[(1, 5, port, "a.shop.test."), (1, 1, port, "b.shop.test.")]);
    names.addresses("a.shop.test.", 0, &["127.0.0.1"]);
    names.addresses("b.shop.test.", 0, &["127.0.0.2"]);
    let config = format!("{}[[discover]]\ndns = \"{SERVICE}\"\n", fixed.entry("fixed"));
    let (gateway, admin) = gateway(&names, &config).await;
    let [a, b] = ["a", "b"].map(|name| format!("{name}.shop.test:{port}"));
    let weights = async || {
        let all = get(admin, "/backends").await.json();
        let one = |backend: &Value| {
            (backend["id"].as_str().unwrap().to_owned(), backend["weight"].as_u64().unwrap())
        };
        let mut all: Vec<_> = all.as_array().unwrap().iter().map(one).collect();
        all.sort();
        all
    };
    let expected = [(a.clone(), 5), (b.clone(), 1), ("fixed".to_owned(), 1)];
    assert_eq!(weights().await, expected, "beside a backend of the file");

    let path = format!("/backends/{b}");
    let patch = async |body: Value| {
        let answer = client::send(admin, Method::PATCH, &path, &[], &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    };
    let mut session = Client::new(gateway.addr);
    while session.get("/").await.backend() != "2" {
        session.jar.clear();
    }
    patch(json!({ "weight": 3, "mode": "draining" })).await;

    // The address of the target changes.
    names.addresses("b.shop.test.", 0, &["127.0.0.3"]);
    let mut listener = Listener::new(admin).await;
    let url = async || get(admin, "/backends").await.json();
    let at = |all: &Value| {
        all.as_array().unwrap().iter().find(|backend| backend["id"] == *b).unwrap().clone()
    };
    if at(&url().await)["url"] != format!("http://127.0.0.3:{port}") {
        assert_eq!(listener.next_of("replaced").await, json!({ "backend": b }));
    }
    let now = at(&url().await);
    assert_eq!(now["url"], format!("http://127.0.0.3:{port}"));
    assert_eq!((&now["weight"], &now["mode"]), (&json!(3), &json!("draining")));
    assert_eq!(session.get("/").await.backend(), "3", "the session follows its target");

    // A backend that the operator has removed returns with the next look-up, as it is still listed.
    let removed = client::send(admin, Method::DELETE, &path, &[], "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(listener.next_of("joined").await, json!({ "backend": b }));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_targets_are_the_backends_if_configured() {
    let names = NameServer::start().await;
    let (_servers, port) = servers(["1", "2", "3"]).await;
    names.service(SERVICE, &[(1, 2, port, "a.shop.test.")]);
    names.addresses("a.shop.test.", 0, &["127.0.0.1", "127.0.0.2"]);
    let config = format!("[[discover]]\ndns = \"{SERVICE}\"\nid = \"address\"\n");
    let (_gateway, admin) = gateway(&names, &config).await;
    let expected = [1, 2].map(|n| entry(&format!("127.0.0.{n}:{port}"), "active"));
    assert_eq!(backends(admin).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_starts_while_the_name_cannot_be_resolved() {
    let names = NameServer::start().await;
    let (_servers, port) = servers(["1", "2", "3"]).await;
    fail(&names, SHOP, &FAILURES[0]);
    let config = format!("[[discover]]\ndns = \"shop.test.:{port}\"\n");
    let (gateway, admin) = gateway(&names, &config).await;
    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let mut listener = Listener::new(admin).await;
    names.addresses(SHOP, 0, &["127.0.0.1"]);
    listener.next_of("joined").await;
    assert_eq!(get(gateway.addr, "/").await.backend(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_and_removes_sources() {
    let names = NameServer::start().await;
    let (_servers, port) = servers(["1", "2", "3"]).await;
    let [first, second] = [1, 2].map(|n| format!("127.0.0.{n}:{port}"));
    names.addresses(SHOP, 0, &["127.0.0.1"]);
    names.addresses("other.test.", 0, &["127.0.0.2"]);
    let fixed =
        echo("fixed").await.entry("fixed").replace("[[backend]]", "[[backend]]\nweight = 0");
    let [shop, other] =
        ["shop", "other"].map(|name| format!("[[discover]]\ndns = \"{name}.test.:{port}\"\n"));
    let (gateway, admin) = gateway(&names, &fixed).await;
    let ids = async || {
        let all = backends(admin).await.into_iter();
        all.filter(|it| it.0 != "fixed").map(|it| (it.0, it.2)).collect::<Vec<_>>()
    };
    let active = |id: &String| (id.clone(), "active".to_owned());
    let changed = reload(&gateway, admin, &names, &format!("{fixed}{shop}")).await;
    assert_eq!(changed, json!(["discover[0].dns"]));
    assert_eq!(ids().await, [active(&first)], "its backends are there when the answer is");
    let mut session = Client::new(gateway.addr);
    assert_eq!(session.get("/").await.backend(), "1");

    // What did not change keeps its counts and health: it is not looked up anew.
    let mut listener = Listener::new(admin).await;
    reload(&gateway, admin, &names, &format!("{fixed}{other}{shop}")).await;
    assert_eq!(listener.next().await, ("joined".to_owned(), json!({ "backend": second })));
    assert_eq!(ids().await, [active(&first), active(&second)]);

    reload(&gateway, admin, &names, &format!("{fixed}{other}")).await;
    let drains = json!({ "backend": first, "from": "active", "to": "draining" });
    assert_eq!(listener.next().await, ("mode".to_owned(), drains));
    assert_eq!(get(gateway.addr, "/").await.backend(), "2", "it takes no new session");
    // It returns to the file in time.
    reload(&gateway, admin, &names, &format!("{fixed}{other}{shop}")).await;
    assert_eq!(ids().await, [active(&first), active(&second)]);
    assert_eq!(session.get("/").await.backend(), "1", "its session was not lost");

    reload(&gateway, admin, &names, &format!("{fixed}{other}")).await;
    assert_eq!(listener.next_of("left").await, json!({ "backend": first }));
    assert_eq!(ids().await, [active(&second)]);
    assert_eq!(session.get("/").await.backend(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_that_are_followed_in_another_way_keep_their_backends() {
    let names = NameServer::start().await;
    let (_servers, port) = servers(["1", "2", "3"]).await;
    names.addresses(SHOP, 0, &["127.0.0.1", "127.0.0.2"]);
    let source = format!("[[discover]]\ndns = \"shop.test.:{port}\"\n");
    let (gateway, admin) = gateway(&names, &source).await;
    let all = backends(admin).await;
    let mut session = Client::new(gateway.addr);
    let home = session.get("/").await.backend();
    let id = all[usize::from(home == "2")].0.clone();
    let body = json!({ "mode": "draining" }).to_string();
    client::send(admin, Method::PATCH, &format!("/backends/{id}"), &[], &body).await;
    let mut listener = Listener::new(admin).await;
    // Each backend gets another service.
    let changed = reload(&gateway, admin, &names, &format!("x_real_ip = true\n{source}")).await;
    assert_eq!(changed, json!(["upstream.x_real_ip"]));
    for _ in 0..2 {
        listener.next_of("replaced").await;
    }
    let seen = session.get("/").await;
    assert_eq!(seen.backend(), home, "its session stays");
    assert!(seen.text().contains("x-real-ip"), "{}", seen.text());
    let drained = backends(admin).await.into_iter().find(|it| it.0 == id).unwrap();
    assert_eq!(drained.2, "draining", "what the operator has set stays");

    // A name that does not exist: the backends stay until it does.
    fail(&names, "missing.test.", &FAILURES[1]);
    let missing = source.replace("shop.test", "missing.test");
    reload(&gateway, admin, &names, &missing).await;
    assert_eq!(session.get("/").await.backend(), home);
    assert_eq!(backends(admin).await.len(), 2);
    names.addresses("missing.test.", 0, &["127.0.0.3"]);
    for _ in 0..2 {
        listener.next_of("left").await;
    }
    assert_eq!(session.get("/").await.backend(), "3");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread")]
async fn discovered_backends_are_verified_over_tls() {
    use crate::{
        process::ConfigFile,
        tls_backends::{Authority, Server, config, says_how},
    };
    let (names, authority) = (NameServer::start().await, Authority::unique());
    let server =
        |name: &str| Server::start(config(&authority.server(&[name]), &["h2"], None), says_how);
    let (host, target) = (server("shop.test").await, server("a.shop.test").await);
    names.addresses(SHOP, 0, &["127.0.0.1"]);
    names.service(SERVICE, &[(1, 1, target.addr.port(), "a.shop.test.")]);
    names.addresses("a.shop.test.", 0, &["127.0.0.1"]);
    let host = format!("shop.test.:{}", host.addr.port());
    let ca = ConfigFile::new(&authority.pem());
    for (dns, upstream, succeeds) in [
        (host.as_str(), "", true),
        (SERVICE, "", true),
        // That of [upstream] counts.
        (SERVICE, "server_name = \"shop.test\"\n", false),
    ] {
        let mut gateway = Gateway::configured(&format!(
            "admin = \"127.0.0.1:0\"\n\
             [upstream]\nhttp2 = \"auto\"\nca = [{:?}]\nnameservers = [\"{}\"]\n{upstream}\
             [[discover]]\ndns = \"{dns}\"\ntls = true\n",
            ca.path(),
            names.addr
        ))
        .await;
        let admin = gateway.admin_addr().await;
        let url = backends(admin).await.remove(0).1;
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let answer = get(gateway.addr, "/").await;
        assert_eq!(answer.status.is_success(), succeeds, "{dns}: {}", answer.text());
        assert_eq!(answer.text().contains("HTTP/2.0"), succeeds, "{dns}: {}", answer.text());
    }
}
