//! No request is lost and no session moves without need under load: when a backend is killed, when
//! backends join and leave, and when the pool changes a thousand times.

#![allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::unwrap_used)]

mod backend;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use tokio::task::JoinHandle;
use tower_sticky::{
    BackendOptions, Backends, KeyRing, Mode, StickyLayer, affinity::Cookie, proxy::Upstream,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::{
    client::Client,
    gateway::{Gateway, NUMBER, VERDICT},
    until,
};

use self::{
    backend::{Backend, HOLD, SERVER},
    traffic::{Record, SESSIONS, Traffic, servers_of_sessions},
};

const REQUESTS: usize = 10_000;

/// Four backends in a pool, and traffic that goes to them through a gateway.
async fn set_up(requests: usize) -> (Backends<Upstream>, [Backend; 4], std::sync::Arc<Traffic>) {
    let servers = ["a", "b", "c", "d"].map(Backend::start);
    let backends = Backends::from_iter(servers.iter().map(|b| (b.name, b.server.upstream())));
    let cookie = Cookie::sealed("sid", KeyRing::generate().unwrap());
    let layer = StickyLayer::new(backends.clone(), cookie)
        .strategy(RoundRobin::new())
        .retry_idempotent(true)
        .outcome_extensions(true);
    let gateway = Gateway::start(layer.into_service()).await;
    (backends, servers, Traffic::new(gateway, requests))
}

/// The invariants of the pool's counters at the end.
async fn check_counters(backends: &Backends<Upstream>, requests: usize) {
    let idle = || backends.iter().all(|backend| backend.in_flight == 0 && backend.waiting == 0);
    until("nothing is in flight", idle).await;
    let stats = backends.snapshot().stats;
    assert_eq!(stats.violations(), 0);
    assert_eq!(stats.requests(), requests as u64, "every request has one outcome");
}

fn failures(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.result.is_err()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_loses_only_requests_that_it_received() {
    let (backends, mut servers, traffic) = set_up(REQUESTS).await;
    let clients = traffic.start().await;
    // Not many more than half of them start before the backend is stopped, however slow the test is.
    traffic.allow(REQUESTS / 2 + 64);
    traffic.ended(REQUESTS / 2).await;
    let held = held_requests(&traffic, &servers[0]).await;
    traffic.allow(REQUESTS);
    servers[0].server.stop();
    let stopped = traffic.now();
    for client in clients {
        client.await.unwrap();
    }
    let mut answers = join_all(held).await.into_iter().map(Result::unwrap);
    let get = answers.next().unwrap();
    for post in answers {
        assert_eq!(post.status(), 502, "it may have been executed, so it is not repeated");
        assert!(!post.headers().contains_key(header::SET_COOKIE), "no pin on an error of ours");
    }
    assert_eq!(get.status(), 200, "it may be repeated, and is");
    assert_eq!(get.headers()[VERDICT], "moved", "its session goes with it");
    let records = traffic.records();
    assert_eq!(records.len(), REQUESTS);
    check_failures(&records, &traffic, &servers[0], stopped);
    let finally = check_moves(&records, stopped);
    let repeated_by = get.headers()[SERVER].to_str().unwrap();
    assert!(finally[&0].contains(repeated_by), "session 0 is where its repeated request went");
    check_outcomes(&records[SESSIONS..]);
    check_counters(&backends, REQUESTS + HELD.len()).await;
}

/// Requests that the backend has received, and does not answer.
const HELD: [(Method, &str); 3] = [(Method::GET, ""), (Method::POST, ""), (Method::POST, "a body")];

type Answering = JoinHandle<Response<Bytes>>;

/// Sends these requests, and waits until the backend has them.
async fn held_requests(traffic: &Traffic, backend: &Backend) -> [Answering; HELD.len()] {
    let mut numbers = REQUESTS..;
    let held = HELD.map(|(method, body)| {
        let token = traffic.token(0).unwrap();
        let request = Request::builder()
            .method(method)
            .header(NUMBER, numbers.next().unwrap())
            .header(HOLD, "a")
            .header(header::COOKIE, format!("sid={token}"))
            .body(Full::from(body))
            .unwrap();
        let mut client = Client::new(traffic.addr());
        tokio::spawn(async move { client.send(request).await.unwrap() })
    });
    let got = || (REQUESTS..numbers.start).all(|number| backend.received(number));
    until("the backend gets them", got).await;
    held
}

/// Requests failed only if the dead backend had received them, or if they were on their way to it.
fn check_failures(records: &[Record], traffic: &Traffic, dead: &Backend, stopped: usize) {
    let failures = failures(records);
    let (got, on_the_way): (Vec<&Record>, Vec<&Record>) =
        failures.iter().partition(|record| dead.received(record.number));
    println!(
        "{} of {REQUESTS} requests were lost with the backend: it had got {}, and {} were on their way",
        failures.len(),
        got.len(),
        on_the_way.len()
    );
    assert!(failures.len() <= 16, "no more than were under way: {failures:#?}");
    for record in &on_the_way {
        assert!(traffic.was_on_its_way(record.number), "it was not sent at all: {record:?}");
        assert_eq!(record.method, Method::POST, "it could have been repeated: {record:?}");
    }
    for record in &failures {
        assert!(record.number < stopped, "it started when the backend was dead: {record:?}");
    }
}

/// The sessions of `a` moved once, and no others. Returns the servers of the sessions after `a` was stopped.
fn check_moves(records: &[Record], stopped: usize) -> BTreeMap<usize, BTreeSet<String>> {
    let late = records.iter().filter(|record| record.number >= stopped);
    assert!(late.clone().count() > REQUESTS / 3, "the backend died half-way");
    let first = servers_of_sessions(&records[..SESSIONS]);
    let all = servers_of_sessions(records);
    let finally = servers_of_sessions(late);
    let mut moved = 0;
    for session in 0..SESSIONS {
        let (first, all, finally) = (&first[&session], &all[&session], &finally[&session]);
        assert_eq!(finally.len(), 1, "session {session} is with one backend: {finally:?}");
        if first.contains("a") {
            moved += 1;
            assert!(!finally.contains("a"), "session {session}: the dead do not answer");
            assert_eq!(all.len(), 2, "session {session} moved once: {all:?}");
        } else {
            assert_eq!(all, first, "session {session} had no reason to move");
        }
    }
    assert_eq!(moved, SESSIONS / 4);
    finally
}

fn check_outcomes(records: &[Record]) {
    for record in records {
        let told = (record.verdict.as_str(), record.reason.as_deref());
        assert!(
            matches!(
                told,
                ("pinned", None)
                    | ("moved", Some("connect-failed" | "down"))
                    | ("borrowed", Some("connect-failed"))
                    | ("rejected", None)
            ),
            "{record:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn joining_and_leaving_backends_lose_no_request() {
    let (backends, mut servers, traffic) = set_up(REQUESTS).await;
    let clients = traffic.start().await;

    // `a` gets a new address; the old server is stopped once its last request has ended.
    traffic.allow(2_500);
    traffic.ended(2_000).await;
    let new_a = Backend::start("new a");
    backends.replace("a", new_a.server.upstream()).unwrap();
    let replaced = traffic.now();
    traffic.allow(4_500);
    traffic.ended_before(replaced).await;
    servers[0].server.stop();

    // `e` joins.
    traffic.ended(4_000).await;
    let e = Backend::start("e");
    backends.insert("e", e.server.upstream()).unwrap();
    traffic.allow(6_500);
    traffic.ended(6_000).await;
    let joined = servers_of_sessions(&traffic.records()).values().any(|s| s.contains("e"));
    assert!(!joined, "no session moves because a backend joins");
    let served = servers_of_new_sessions(&traffic).await;
    assert_eq!(served, BTreeSet::from(["new a", "b", "c", "d", "e"].map(String::from)));

    // `b` leaves, and is stopped once its last request has ended.
    backends.remove("b").unwrap();
    let removed = traffic.now();
    traffic.allow(REQUESTS);
    traffic.ended_before(removed).await;
    servers[1].server.stop();
    for client in clients {
        client.await.unwrap();
    }

    let records = traffic.records();
    assert_eq!(records.len(), REQUESTS);
    assert!(failures(&records).is_empty(), "{:#?}", failures(&records));
    check_that_sessions_stayed(&records, replaced, removed);
    check_counters(&backends, REQUESTS + 5).await;
}

/// The servers of five new sessions.
async fn servers_of_new_sessions(traffic: &Traffic) -> BTreeSet<String> {
    let mut client = Client::new(traffic.addr());
    let mut servers = BTreeSet::new();
    for _ in 0..5 {
        let request = Request::builder().header(NUMBER, 1).body(Default::default());
        let answer = client.send(request.unwrap()).await.unwrap();
        servers.insert(answer.headers()[SERVER].to_str().unwrap().to_owned());
    }
    servers
}

/// Sessions stay with their backends: those of `a` from its replacement on with the new server, those of `b`
/// until its removal.
fn check_that_sessions_stayed(records: &[Record], replaced: usize, removed: usize) {
    let first = servers_of_sessions(&records[..SESSIONS]);
    let between = servers_of_sessions(
        records.iter().filter(|record| (replaced..removed).contains(&record.number)),
    );
    let finally = servers_of_sessions(records.iter().filter(|record| record.number >= removed));
    for session in 0..SESSIONS {
        let one = |servers: &BTreeMap<usize, BTreeSet<String>>| -> String {
            let servers = &servers[&session];
            assert_eq!(servers.len(), 1, "session {session} is with one backend: {servers:?}");
            servers.first().unwrap().clone()
        };
        let first = one(&first);
        let expected = if first == "a" { "new a" } else { &first };
        // Requests that started just before the removal of `b` may be the first ones without it.
        if first != "b" {
            assert_eq!(one(&between), expected, "session {session} goes with its backend");
            assert_eq!(one(&finally), expected, "session {session} had no reason to move");
        } else {
            assert_ne!(one(&finally), "b");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_changes_lose_no_request() {
    const CHANGES: usize = 1_000;
    let requests = SESSIONS + 4 * CHANGES;
    let (backends, servers, traffic) = set_up(requests).await;
    let clients = traffic.start().await;
    let [a, b, c, d] = servers.each_ref().map(|backend| backend.server.upstream());
    traffic.allow(SESSIONS + 64);
    for change in 0..CHANGES {
        // `a` always stays; all other backends join and leave.
        match change % 14 {
            0 => backends.insert("x", b.clone()).unwrap(),
            1 => backends.set_mode("b", Mode::Draining).unwrap(),
            2 => drop(backends.replace("x", c.clone()).unwrap()),
            3 => backends.set_weight("x", 5).unwrap(),
            4 => drop(backends.remove("c").unwrap()),
            5 => backends.set_mode("d", Mode::Disabled).unwrap(),
            6 => {
                let heavier = BackendOptions::new().weight(2);
                backends.insert_with("y", d.clone(), heavier).unwrap();
            }
            7 => drop(backends.replace("a", a.clone()).unwrap()),
            8 => backends.set_mode("b", Mode::Active).unwrap(),
            9 => drop(backends.remove("x").unwrap()),
            10 => backends.insert("c", c.clone()).unwrap(),
            11 => backends.set_mode("d", Mode::Active).unwrap(),
            12 => backends.set_weight("a", 1 + change as u32 % 7).unwrap(),
            _ => drop(backends.remove("y").unwrap()),
        }
        // Some requests between two changes, and always some in flight.
        traffic.ended(SESSIONS + 4 * change).await;
        traffic.allow(SESSIONS + 4 * change + 64);
    }
    traffic.allow(requests);
    for client in clients {
        client.await.unwrap();
    }
    let records = traffic.records();
    assert_eq!(records.len(), requests);
    assert!(failures(&records).is_empty(), "{:#?}", failures(&records));
    let moved = records.iter().filter(|record| record.verdict == "moved").count();
    assert!(moved > 0, "sessions of disabled backends move");
    check_counters(&backends, requests).await;
    drop(servers);
}
