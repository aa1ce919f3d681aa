//! Learned ids in the path of a created resource and in the query.

use std::sync::atomic::Ordering::SeqCst;

use http::{Method, Request};
use tower_sticky::{Backends, Reason, Verdict, affinity::Learned};

use crate::support::{Body, Node, get, layer, nodes, send};

fn at(method: Method, path: &str) -> Request<Body> {
    let mut request = get();
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request
}

/// The nodes respond with this status and `Location`.
fn locate(nodes: &[Node], status: u16, location: &str) {
    for node in nodes {
        node.control.status.store(status, SeqCst);
        *node.control.response_headers.lock().unwrap() = vec![("location", location.to_owned())];
    }
}

fn quiet(nodes: &[Node]) {
    for node in nodes {
        node.control.status.store(200, SeqCst);
        node.control.response_headers.lock().unwrap().clear();
    }
}

fn session_count(backends: &Backends<Node>) -> u64 {
    backends.snapshot().backends.iter().map(|backend| backend.sessions_seen).sum()
}

#[tokio::test]
async fn a_created_resource_stays_with_the_backend_that_created_it() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    let service = layer(&backends, Learned::location("/files/{id}")).into_service();
    for (number, (status, location)) in [
        (201, "/files/8f3a0"),
        (201, "https://shop.example/files/8f3a1?x=1"),
        (201, "//shop.example/files/8f3a2"),
        (201, "8f3a3"),
        (303, "./8f3a4#top"),
        (201, "/files/8f3a%35"),
    ]
    .into_iter()
    .enumerate()
    {
        locate(&nodes, status, location);
        let created = send(&service, at(Method::POST, "/files/")).await.owned_decision();
        assert_eq!(created.0, Verdict::Assigned);
        quiet(&nodes);
        let path = format!("/files/8f3a{number}");
        for (method, path) in [
            (Method::HEAD, path.clone()),
            (Method::PATCH, path.clone()),
            (Method::GET, format!("{path}/parts?n=1")),
        ] {
            let answer = send(&service, at(method, &path)).await;
            assert_eq!(
                answer.decision(),
                (Verdict::Pinned, created.1.as_deref(), None),
                "{location}: {path}"
            );
        }
    }
}

#[tokio::test]
async fn other_locations_are_not_learned() {
    let (backends, nodes) = nodes(["a", "b"]);
    let service = layer(&backends, Learned::location("/files/{id}")).into_service();
    for (status, location) in
        [(200, "/files/1"), (201, "/users/1"), (201, "/files/"), (404, "/files/1")]
    {
        locate(&nodes, status, location);
        send(&service, at(Method::POST, "/files")).await;
        quiet(&nodes);
        assert_eq!(session_count(&backends), 0, "{status} {location}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_moves_when_its_backend_fails() {
    let (backends, nodes) = nodes(["a", "b"]);
    let service = layer(&backends, Learned::location("/files/{id}")).into_service();
    locate(&nodes, 201, "/files/1");
    send(&service, at(Method::POST, "/files")).await;
    quiet(&nodes);
    nodes[0].control.refuses.store(true, SeqCst);
    let moved = send(&service, at(Method::PATCH, "/files/1")).await;
    assert_eq!(moved.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
    nodes[0].control.refuses.store(false, SeqCst);
    let stays = send(&service, at(Method::PATCH, "/files/1")).await;
    assert_eq!(stays.decision(), (Verdict::Pinned, Some("b"), None));
}

#[tokio::test]
async fn a_delete_that_succeeds_ends_the_session_by_option() {
    for (by_option, status, ends) in
        [(true, 204, true), (true, 404, false), (true, 500, false), (false, 204, false)]
    {
        let (backends, nodes) = nodes(["a", "b"]);
        let learned = Learned::location("/files/{id}").end_on_delete(by_option);
        let service = layer(&backends, learned).into_service();
        locate(&nodes, 201, "/files/1");
        send(&service, at(Method::POST, "/files")).await;
        quiet(&nodes);
        send(&service, at(Method::GET, "/files/1")).await;
        assert_eq!(session_count(&backends), 1);
        for node in &nodes {
            node.control.status.store(status, SeqCst);
        }
        send(&service, at(Method::DELETE, "/files/1")).await;
        assert_eq!(session_count(&backends), u64::from(!ends), "{by_option} {status}");
        quiet(&nodes);
        let after = send(&service, at(Method::GET, "/files/1")).await.owned_decision();
        let expected = if ends { Verdict::Assigned } else { Verdict::Pinned };
        assert_eq!(after.0, expected, "{by_option} {status}");
    }
}

#[tokio::test]
async fn an_id_in_the_query_is_learned_from_its_first_request() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let service = layer(&backends, Learned::query("sid")).into_service();
    for id in ["1", "2%2e", "3", "4"] {
        let uri = format!("/?t=x&sid={id}");
        let first = send(&service, at(Method::GET, &uri)).await.owned_decision();
        assert_eq!(first.0, Verdict::Assigned);
        for _ in 0..2 {
            let again = send(&service, at(Method::GET, &uri)).await;
            assert_eq!(again.decision(), (Verdict::Pinned, first.1.as_deref(), None));
        }
    }
}
