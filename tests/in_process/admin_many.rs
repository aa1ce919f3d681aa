//! The pages of a pool with 2,000 backends.

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_sticky::{Backends, Mode, Peer, admin};

use crate::support::{Client, Node, get, sealed};

const BACKENDS: usize = 2_000;

async fn page(app: &Router, path: &str) -> String {
    let request = Request::get(path).header("host", "localhost");
    let request = request.extension(Peer::new("127.0.0.1:5".parse().unwrap()));
    let answer = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap().replace('\u{a0}', " ")
}

/// The backends that a page shows, in their order.
fn shown(page: &str) -> Vec<&str> {
    let ids = page.split(" id=\"backend-").skip(1);
    ids.map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_many_backends_has_pages_and_a_search() {
    let backends: Backends<Node> =
        (0..BACKENDS).map(|number| (format!("b{number:04}"), Node::new("x"))).collect();
    let app = admin::router(backends.clone()).build();
    let first = page(&app, "/").await;
    assert!(first.len() < 1_000_000, "the page has {} bytes", first.len());
    assert!(first.contains("All is well.") && first.contains("2\u{202f}000 backends"), "{first}");
    assert!(first.contains("Page 1 of 40"), "{first}");
    assert_eq!(shown(&first)[..2], ["b0000", "b0001"]);
    let last = page(&app, "/?page=39").await;
    assert_eq!(shown(&last).last(), Some(&"b1999"));
    assert_eq!(shown(&page(&app, "/?page=4000000").await), shown(&last), "the last one there is");
    assert_eq!(shown(&page(&app, "/?q=B123").await).len(), 10);
    assert_eq!(shown(&page(&app, "/?q=b1234").await), ["b1234"]);

    // Many sessions have to move: the moves have pages, too.
    let service = sealed(&backends).into_service();
    let mut clients = Vec::new();
    for _ in 0..BACKENDS {
        clients.push(Client::assigned(&service).await);
    }
    let disabled = backends.update(|update| {
        for number in 0..BACKENDS / 2 {
            update.set_mode(&format!("b{number:04}"), Mode::Disabled);
        }
    });
    disabled.unwrap();
    for client in &mut clients {
        client.send(&service, get()).await;
    }
    let overview = page(&app, "/").await;
    assert!(overview.contains("All is well; 1\u{202f}000 backends are disabled."), "{overview}");
    assert!(overview.len() < 1_000_000, "the page has {} bytes", overview.len());
    let moves = page(&app, "/view/moves").await;
    assert!(moves.contains("Page 1 of 10, 1\u{202f}000 moves"), "{moves}");
    assert!(moves.len() < 1_000_000, "the page has {} bytes", moves.len());
    let rows = |page: &str| page.matches("<code>").count();
    assert_eq!((rows(&moves), rows(&page(&app, "/view/moves?page=9").await)), (100, 100));
}
