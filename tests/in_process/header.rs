//! Tokens in a header instead of a cookie.

use std::time::Duration;

use http::Request;
use tower_sticky::{
    Backends, Reason, StickyLayer, Verdict,
    affinity::{Cookie, Header},
};

use crate::support::{Body, Node, get, header_token, keys, layer, nodes, send, with_header};

#[tokio::test]
async fn a_header_token_behaves_like_a_cookie_token() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let affinity = Header::sealed("x-sticky", keys()).idle_timeout(Duration::from_secs(60));
    let service = layer(&backends, affinity).into_service();
    let answer = send(&service, get()).await;
    let pin = header_token(&answer).expect("handed out in the response");
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"x-sticky\"");
    a.control.response_headers.lock().unwrap().push(("x-sticky", "from the backend".into()));
    let answer = send(&service, with_header("x-sticky", &pin)).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(header_token(&answer), None, "nothing changed; the backend's is dropped");
    for (bad, reason) in [("x", Reason::Malformed), (&pin[..78], Reason::Malformed)] {
        let answer = send(&service, with_header("x-sticky", bad)).await;
        assert_eq!(answer.decision().2, Some(reason));
        assert!(header_token(&answer).is_some_and(|token| token != "from the backend"), "replaced");
    }
    let mut two = with_header("x-sticky", "gone");
    two.headers_mut().append("x-sticky", pin.parse().unwrap());
    assert_eq!(send(&service, two).await.decision().1, Some("a"), "the first usable one wins");
    let in_cookie = send(&service, with_header("cookie", &format!("x-sticky={pin}"))).await;
    assert_eq!(in_cookie.decision().0, Verdict::Assigned, "a header's token is no cookie");
    let cookie = layer(&backends, Cookie::sealed("x-sticky", keys())).into_service();
    let answer = send(&cookie, with_header("cookie", &format!("x-sticky={pin}"))).await;
    assert_eq!(answer.decision().2, Some(Reason::Forged), "nor under the same name and key");
    drop(b);
    for bad in ["", "a b", "set-cookie", "Content-Length", "host"] {
        assert!(
            StickyLayer::try_new(Backends::<Node>::new(), Header::plain(bad)).is_err(),
            "{bad:?} cannot be ours"
        );
    }
}

#[tokio::test]
async fn the_header_token_is_removed_unless_forwarded() {
    let (backends, _nodes) = nodes(["a"]);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let spy = {
        let seen = seen.clone();
        tower::service_fn(move |request: Request<Body>| {
            seen.lock().unwrap().push(request.headers().contains_key("x-sticky"));
            async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::default())) }
        })
    };
    drop(backends);
    for forward in [false, true] {
        let backends = Backends::from_iter([("a", spy.clone())]);
        let affinity = Header::plain("x-sticky").forward(forward);
        let service = StickyLayer::new(backends, affinity).into_service();
        send(&service, with_header("x-sticky", "a")).await;
        assert_eq!(seen.lock().unwrap().pop(), Some(forward));
    }
}

#[tokio::test]
async fn the_end_of_a_session_empties_the_header() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, Header::sealed("x-sticky", keys())).into_service();
    let token = header_token(&send(&service, get()).await).unwrap();
    a.control.action.lock().unwrap().replace(tower_sticky::SessionAction::End);
    let answer = send(&service, with_header("x-sticky", &token)).await;
    assert_eq!(header_token(&answer).as_deref(), Some(""));
    assert!(answer.headers["cache-control"].to_str().unwrap().contains("x-sticky"));
}
