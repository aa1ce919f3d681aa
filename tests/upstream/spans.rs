//! The span of an exchange.

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;

use crate::{recorded_spans::Spans, support::*};

#[tokio::test]
async fn an_exchange_has_a_span_which_says_how_it_ended() {
    let (spans, _guard) = Spans::record();
    let backend = server(false, |_| async { Response::new(Empty::<Bytes>::new()) }).await;
    let port = backend.url.rsplit(':').next().unwrap();
    send(&backend.upstream(), get("/")).await.unwrap();
    let fields = spans.last("exchange").fields;
    assert_eq!(fields["otel.kind"], "client");
    assert_eq!(fields["http.request.method"], "GET");
    assert_eq!(fields["server.address"], "127.0.0.1");
    assert_eq!(fields["server.port"], port);
    assert_eq!(fields["http.response.status_code"], "200");
    assert_eq!(fields["network.protocol.version"], "1.1");
    assert!(!fields.contains_key("error.type"));

    let backend = once("this is not HTTP\r\n\r\n").await;
    let error = send(&backend.upstream(), get("/")).await.unwrap_err();
    let fields = spans.last("exchange").fields;
    assert_eq!(fields["error.type"], error.to_string());
    assert!(!fields.contains_key("http.response.status_code"));
}
