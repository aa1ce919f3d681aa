//! The page `own_sessions`: stand-ins for Tomcat, PHP and Rails, with the cookies that these set.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{Json, Router, extract::Request};
use http::{HeaderMap, header};
use serde_json::json;

use crate::{
    client::{self, Client},
    page,
    server_thread::Server,
};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
/// How often each user asks.
const VISITS: u64 = 5;

/// How an application names its sessions.
#[derive(Clone, Copy)]
enum Kind {
    /// The id of Tomcat, with its `jvmRoute`.
    Tomcat,
    Php,
    /// The whole session is in the cookie.
    Rails,
}

impl Kind {
    fn cookie(self) -> &'static str {
        match self {
            Self::Tomcat => "JSESSIONID",
            Self::Php => "PHPSESSID",
            Self::Rails => "_shop_session",
        }
    }

    fn new_id(self, node: &str) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        match self {
            Self::Tomcat => format!("{number:032X}.{node}"),
            Self::Php => format!("{number:026x}"),
            Self::Rails => "1".to_owned(),
        }
    }

    fn attributes(self) -> &'static str {
        match self {
            Self::Tomcat => "; Path=/; HttpOnly",
            Self::Php => "; path=/",
            Self::Rails => "; path=/; HttpOnly; SameSite=Lax",
        }
    }
}

/// The id that a request carries, in a cookie or in the path.
fn id_of(kind: Kind, request: &Request) -> Option<String> {
    let cookies = request.headers().get_all(header::COOKIE).iter();
    let cookies: Vec<_> = cookies.map(|field| field.to_str().unwrap().to_owned()).collect();
    let cookies = cookies.join("; ");
    let named = format!("{}=", kind.cookie());
    let of_cookie = cookies.split("; ").find_map(|pair| pair.strip_prefix(&named));
    let of_path = request.uri().path().split_once(";jsessionid=").map(|(_, id)| id);
    of_cookie.or(of_path).map(str::to_owned)
}

/// A server that counts the visits of the sessions that it has begun itself.
fn node(kind: Kind, name: &'static str) -> Server {
    let sessions = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
    let serve = move |request: Request| async move {
        let known = id_of(kind, &request).filter(|id| match kind {
            Kind::Rails => true,
            Kind::Tomcat | Kind::Php => sessions.lock().unwrap().contains_key(id),
        });
        let mut headers = HeaderMap::new();
        let mut set = |value: &str| {
            let cookie = format!("{}={value}{}", kind.cookie(), kind.attributes());
            headers.insert(header::SET_COOKIE, cookie.parse().unwrap());
        };
        let (id, visits) = match known {
            Some(visits) if matches!(kind, Kind::Rails) => {
                let visits = visits.parse::<u64>().unwrap() + 1;
                set(&visits.to_string());
                (String::new(), visits)
            }
            Some(id) => {
                let mut sessions = sessions.lock().unwrap();
                let visits = sessions.get_mut(&id).unwrap();
                *visits += 1;
                (id.clone(), *visits)
            }
            None => {
                let id = kind.new_id(name);
                sessions.lock().unwrap().insert(id.clone(), 1);
                set(&id);
                (id, 1)
            }
        };
        (headers, Json(json!({ "name": name, "visits": visits, "id": id })))
    };
    let app = Router::new().fallback(serve);
    Server::start(async move |listener| axum::serve(listener, app).await)
}

fn nodes(kind: Kind) -> ([Server; 3], [u16; 3]) {
    let nodes = NODES.map(|name| node(kind, name));
    let ports = nodes.each_ref().map(|node| node.addr.port());
    (nodes, ports)
}

/// Visits as one user, and returns their server, which must be the same and know them.
async fn visit(user: &mut Client, before: u64) -> String {
    let mut servers = Vec::new();
    for visit in before + 1..=before + VISITS {
        let answer = user.get("/").await;
        assert_eq!(answer.json()["visits"], visit, "the server knows its session");
        servers.push(answer.backend());
    }
    servers.dedup();
    assert_eq!(servers.len(), 1, "a user has one server");
    servers.remove(0)
}

/// Users over three servers: they stay, in a drain too, and those of a dead server begin anew elsewhere, once.
async fn assert_users_stay(kind: Kind, configuration: usize) {
    let (mut servers, ports) = nodes(kind);
    let mut gateway = page::gateway("own_sessions.md", configuration, &ports).await;
    let admin = gateway.admin_addr().await;
    let mut users: Vec<_> = (0..6).map(|_| Client::new(gateway.addr)).collect();
    let mut homes = Vec::new();
    for user in &mut users {
        homes.push(visit(user, 0).await);
    }
    for name in NODES {
        assert_eq!(homes.iter().filter(|home| *home == name).count(), 2, "{homes:?}");
    }
    let draining = r#"{"mode":"draining","deadline":"10m"}"#;
    client::send(admin, http::Method::PATCH, "/backends/node1", &[], draining).await;
    let mut newcomer = Client::new(gateway.addr);
    assert_ne!(visit(&mut newcomer, 0).await, "node1", "a new user goes elsewhere");
    for (user, home) in users.iter_mut().zip(&homes) {
        assert_eq!(visit(user, VISITS).await, *home, "a drain disturbs nobody");
    }
    servers[1].kill();
    for (user, home) in users.iter_mut().zip(&homes) {
        let lost = home == "node2" && !matches!(kind, Kind::Rails);
        let now = visit(user, if lost { 0 } else { 2 * VISITS }).await;
        assert_eq!(now != *home, home == "node2", "only the users of the dead server move");
    }
}

#[tokio::test]
async fn tomcat_by_route() {
    assert_users_stay(Kind::Tomcat, 0).await;
}

#[tokio::test]
async fn php_by_envelope() {
    assert_users_stay(Kind::Php, 1).await;
}

#[tokio::test]
async fn php_by_learned_ids() {
    assert_users_stay(Kind::Php, 2).await;
}

#[tokio::test]
async fn rails_by_the_cookie_of_the_gateway() {
    assert_users_stay(Kind::Rails, 3).await;
}

#[tokio::test]
async fn tomcat_without_cookies_has_the_id_in_the_path() {
    let (_servers, ports) = nodes(Kind::Tomcat);
    let gateway = page::gateway("own_sessions.md", 0, &ports).await;
    for _ in 0..3 {
        let first = client::get(gateway.addr, "/cart").await;
        let id = first.json()["id"].as_str().unwrap().to_owned();
        for visit in 2..6 {
            let again = client::get(gateway.addr, &format!("/cart;jsessionid={id}")).await;
            assert_eq!(again.json()["visits"], visit);
            assert_eq!(again.backend(), first.backend());
        }
    }
}
