//! Affinity by the address of the client.

use http::Request;
use tower_sticky::{
    Backends, StickyLayer, Verdict,
    affinity::{ClientIp, ForwardedBy},
};

use crate::support::{Body, Node, get, layer, nodes, send, with_header};

fn from(peer: &str, trusted: bool, header: Option<(&'static str, &str)>) -> Request<Body> {
    let mut request = get();
    let addr = format!("{peer}:4711").parse().unwrap();
    request.extensions_mut().insert(tower_sticky::Peer::new(addr).trusted(trusted));
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn the_client_address_chooses_the_backend() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d", "e", "f", "g", "h"]);
    let affinity = ClientIp::new().trusted_proxies(["10.0.0.0/8"]).unwrap();
    let service = layer(&backends, affinity).into_service();
    let home = async |request: Request<Body>| send(&service, request).await.body;
    let xff = Some(("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.1.1.1"));
    let forwarded = Some(("forwarded", "for=6.6.6.6, for=\"203.0.113.9:80\", for=10.1.1.1"));
    let mut differs = 0;
    for peer in 1..20 {
        let peer = format!("192.0.2.{peer}");
        let alone = home(from(&peer, false, None)).await;
        assert_eq!(home(from(&peer, false, xff)).await, alone, "an untrusted peer says anything");
        assert_eq!(home(from(&peer, false, forwarded)).await, alone);
        differs += usize::from(alone != home(from("203.0.113.9", false, None)).await);
    }
    assert!(differs > 10, "addresses spread");
    let answer = send(&service, from("203.0.113.9", false, None)).await;
    assert_eq!(answer.decision().0, Verdict::Pinned, "the address decides each time");
    let client = home(from("203.0.113.9", false, None)).await;
    assert_eq!(
        home(from("10.9.9.9", false, xff)).await,
        client,
        "the header of a trusted proxy counts"
    );
    assert_eq!(home(from("10.9.9.9", false, forwarded)).await, client);
    assert_eq!(home(from("192.0.2.1", true, xff)).await, client, "trusted by its connection");
    let mapped = Some(("x-forwarded-for", "::ffff:203.0.113.9"));
    assert_eq!(home(from("10.9.9.9", false, mapped)).await, client, "IPv4-mapped is IPv4");
    for (by, counts) in [(ForwardedBy::XForwardedFor, xff), (ForwardedBy::Forwarded, forwarded)] {
        let affinity = ClientIp::new().trusted_proxies(["10.0.0.0/8"]).unwrap().forwarded_by(by);
        let service = layer(&backends, affinity).into_service();
        let home = send(&service, from("10.9.9.9", false, counts)).await;
        assert_eq!(home.body, client, "{by:?}");
        let ignored = if counts == xff { forwarded } else { xff };
        let answer = send(&service, from("10.9.9.9", false, ignored)).await;
        assert_eq!(answer.body, send(&service, from("10.9.9.9", false, None)).await.body, "{by:?}");
    }
    let v6 = async |address: &str| {
        home(from("10.0.0.1", false, Some(("x-forwarded-for", address)))).await
    };
    assert_eq!(v6("2001:db8::1").await, v6("2001:db8::ffff:1:2").await, "one /64, one session");
    assert_eq!(
        send(&service, get()).await.decision().0,
        Verdict::Assigned,
        "no address: the strategy"
    );
}

#[tokio::test]
async fn a_trusted_peer_on_a_unix_socket_tells_the_client_address() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d", "e", "f", "g", "h"]);
    let service = layer(&backends, ClientIp::new()).into_service();
    let over_unix = |trusted: bool, client: Option<&str>| {
        let mut request = client.map_or_else(get, |it| with_header("x-forwarded-for", it));
        request.extensions_mut().insert(tower_sticky::Peer::unix().trusted(trusted));
        request
    };
    for client in 1..10 {
        let client = format!("203.0.113.{client}");
        let home = send(&service, from(&client, false, None)).await.body;
        assert_eq!(send(&service, over_unix(true, Some(&client))).await.body, home);
    }
    for request in [over_unix(true, None), over_unix(false, Some("203.0.113.1"))] {
        let answer = send(&service, request).await;
        assert_eq!(answer.decision().0, Verdict::Assigned, "no address: the strategy");
    }
}

#[tokio::test]
async fn the_client_address_can_come_from_axum_or_a_function_with_a_prefix() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d", "e", "f", "g", "h"]);
    let service = layer(&backends, ClientIp::new().ipv4_prefix(24)).into_service();
    let by_function = ClientIp::new()
        .peer_from(|head| head.headers().get("addr")?.to_str().ok()?.parse().ok())
        .ipv4_prefix(24);
    let by_function = layer(&backends, by_function).into_service();
    for net in 0..10 {
        let peer = format!("192.0.{net}.1");
        let home = send(&service, from(&peer, false, None)).await.body;
        let mut request = get();
        let addr: std::net::SocketAddr = format!("192.0.{net}.77:1").parse().unwrap();
        request.extensions_mut().insert(axum::extract::ConnectInfo(addr));
        assert_eq!(send(&service, request).await.body, home, "one network maps to one backend");
        assert_eq!(send(&by_function, with_header("addr", &peer)).await.body, home);
    }
    let backends = Backends::<Node>::new;
    assert!(StickyLayer::try_new(backends(), ClientIp::new().ipv4_prefix(33)).is_err());
    assert!(ClientIp::new().trusted_proxies(["10.0.0.0/33"]).is_err());
}
