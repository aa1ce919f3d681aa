use http::{
    HeaderMap, HeaderValue, Request, Response, Version, header, request::Parts as RequestParts,
    response::Parts as ResponseParts,
};

use super::*;
use crate::{
    error::BoxError,
    upstream::http::{
        forwarded::{ForwardedOptions, Via},
        protocol::Protocol,
        target::Target,
    },
};

fn forwarded(request: http::request::Builder, length: Length, h2: bool) -> RequestParts {
    let target = Target::parse("http://10.0.0.1:81").unwrap();
    let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
    let (mut parts, ()) = request.body(()).unwrap().into_parts();
    let upgrade = wants_upgrade(parts.version, &parts.headers);
    let added = Added {
        via: Some(Via::formatted("x")),
        response_via: None,
        forwarded: ForwardedOptions::default(),
    };
    let hop = Hop { added: &added, target: &target, protocol };
    super::request(&mut parts, hop, None, upgrade.as_ref(), length, false).unwrap();
    parts
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, v)| format!("{name}: {}", v.to_str().unwrap())).collect();
    lines.sort();
    lines
}

#[test]
fn hop_by_hop_fields_are_removed() {
    let request = Request::get("/a?b")
        .header("host", "shop")
        .header("connection", "close, X-Once , te")
        .header("connection", "x-twice")
        .header("x-once", "1")
        .header("x-twice", "2")
        .header("keep-alive", "timeout=5")
        .header("proxy-connection", "keep-alive")
        .header("proxy-authorization", "secret")
        .header("proxy-authenticate", "Basic")
        .header("te", "gzip")
        .header("upgrade", "websocket")
        .header("http2-settings", "AAA")
        .header("expect", "100-continue")
        .header("x_forwarded_for", "1.1.1.1")
        .header("x-forwarded-for", "1.1.1.1")
        .header("cookie", "a=b");
    let parts = forwarded(request, Length::Empty, false);
    assert_eq!(lines(&parts.headers), ["cookie: a=b", "host: shop", "via: 1.1 x"]);
    assert_eq!(parts.uri, "/a?b");
}

#[test]
fn connection_cannot_remove_the_host() {
    let request = Request::get("/").header("host", "shop").header("connection", "host");
    assert_eq!(forwarded(request, Length::Empty, false).headers["host"], "shop");
}

#[test]
fn split_cookies_are_joined_for_http1() {
    let request = || Request::get("/").header("cookie", "a=1").header("cookie", "b=2");
    assert_eq!(lines(&forwarded(request(), Length::Empty, false).headers)[0], "cookie: a=1; b=2");
    let two = forwarded(request(), Length::Empty, true).headers;
    assert_eq!(two.get_all("cookie").iter().count(), 2, "HTTP/2 may have them split");
}

#[test]
fn one_host_is_forwarded() {
    let request = Request::get("/").header("host", "shop").header("host", "other");
    assert_eq!(
        lines(&forwarded(request, Length::Empty, false).headers),
        ["host: shop", "via: 1.1 x"]
    );
}

#[test]
fn connection_cannot_remove_fields_of_the_layer() {
    let request = Request::get("/").header("x-sticky-forwarded", "a");
    let request = request.header("connection", "X-Sticky-Forwarded");
    assert_eq!(forwarded(request, Length::Empty, false).headers["x-sticky-forwarded"], "a");
}

#[test]
fn a_request_with_another_transfer_coding_is_refused() {
    let target = Target::parse("http://10.0.0.1:81").unwrap();
    let added = Added { via: None, response_via: None, forwarded: ForwardedOptions::default() };
    let hop = Hop { added: &added, target: &target, protocol: Protocol::Http1 };
    for (coding, is_passed) in [("chunked", true), ("Chunked", true), ("gzip, chunked", false)] {
        let request = Request::post("/").header("transfer-encoding", coding);
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        let made = super::request(&mut parts, hop, None, None, Length::Unknown, false);
        assert_eq!(made.is_ok(), is_passed, "{coding}");
    }
}

#[test]
fn te_trailers_is_forwarded() {
    let request = || Request::get("/").header("host", "a").header("te", "gzip, trailers");
    let headers = forwarded(request(), Length::Empty, false).headers;
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["connection"], "te");
    let headers = forwarded(request(), Length::Empty, true).headers;
    assert_eq!(headers["te"], "trailers");
    assert!(!headers.contains_key("connection"), "HTTP/2 has no connection fields");
}

#[test]
fn a_query_without_a_path_gets_one() {
    for h2 in [false, true] {
        let parts = forwarded(Request::get("http://shop?a=b"), Length::Empty, h2);
        let path = parts.uri.path_and_query().unwrap();
        assert_eq!(path.as_str(), "/?a=b", "{h2}");
        let options = Request::options("*").header("host", "shop");
        assert_eq!(forwarded(options, Length::Empty, h2).uri.path(), "*");
    }
}

#[test]
fn the_targets_authority_outranks_host() {
    let request = Request::get("http://user@real:8080/x").header("host", "other");
    let parts = forwarded(request, Length::Empty, false);
    assert_eq!(parts.headers["host"], "real:8080");
    assert_eq!(parts.uri, "/x");

    let request = Request::get("http://real/x").version(Version::HTTP_2);
    let parts = forwarded(request, Length::Empty, false);
    assert_eq!(parts.headers["host"], "real");
    assert_eq!(parts.headers["via"], "2.0 x");
    assert_eq!(parts.version, Version::HTTP_11);

    let parts = forwarded(Request::get("/").version(Version::HTTP_10), Length::Empty, false);
    assert_eq!(parts.headers["host"], "10.0.0.1:81", "HTTP/1.0 needs no Host, HTTP/1.1 does");
    assert_eq!(parts.headers["via"], "1.0 x");
}

#[test]
fn a_head_for_http2() {
    let parts = forwarded(Request::get("/x?y").header("host", "shop:81"), Length::Empty, true);
    assert_eq!(parts.uri, "http://shop:81/x?y");
    assert_eq!(parts.version, Version::HTTP_2);
    assert_eq!(lines(&parts.headers), ["via: 1.1 x"]);
}

#[test]
fn options_of_the_server() {
    let request = Request::options("*").header("host", "a");
    assert_eq!(forwarded(request, Length::Empty, false).uri, "*");
}

#[test]
fn framing_is_made_from_the_body() {
    let framing = |request: http::request::Builder, length, h2| {
        let headers = forwarded(request.header("host", "a"), length, h2).headers;
        let get = |name| {
            headers.get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        (get(header::CONTENT_LENGTH).join("|"), get(header::TRANSFER_ENCODING).join("|"))
    };
    let length = |n: &str| (n.to_owned(), String::new());
    let chunked = (String::new(), "chunked".to_owned());

    let post = || Request::post("/");
    assert_eq!(framing(post().header("content-length", "3"), Length::Exact(3), false), length("3"));
    assert_eq!(framing(post().header("content-length", "9"), Length::Exact(3), false), length("3"));
    assert_eq!(framing(post().header("content-length", "9"), Length::Unknown, false), chunked);
    let both = post().header("content-length", "3").header("transfer-encoding", "chunked");
    assert_eq!(framing(both, Length::Unknown, false), chunked, "never both");
    let twice = post().header("content-length", "3").header("content-length", "3");
    assert_eq!(framing(twice, Length::Exact(3), false), length("3"));
    assert_eq!(framing(post(), Length::Unknown, true), length(""), "HTTP/2 frames by itself");
    assert_eq!(framing(post(), Length::Empty, false), length("0"));
    assert_eq!(framing(Request::get("/"), Length::Empty, false), length(""));
    let emptied = Request::get("/").header("content-length", "5");
    assert_eq!(framing(emptied, Length::Empty, false), length(""), "a length without its body");
    assert_eq!(framing(Request::get("/"), Length::Unknown, false), chunked);
}

#[test]
fn upgrades_that_are_asked_for() {
    let asked = |version, connection: &str, upgrade: &[&str]| {
        let mut headers = HeaderMap::new();
        headers.insert("connection", connection.parse().unwrap());
        for value in upgrade {
            headers.append("upgrade", value.parse().unwrap());
        }
        wants_upgrade(version, &headers)
    };
    let http1 = Version::HTTP_11;
    assert_eq!(asked(http1, "keep-alive, Upgrade", &["websocket"]).unwrap(), "websocket");
    assert!(asked(http1, "keep-alive", &["websocket"]).is_none());
    assert!(asked(http1, "upgrade", &[]).is_none());
    assert!(asked(http1, "upgrade", &["h2c"]).is_none(), "it would tunnel past this hop's rules");
    assert!(asked(http1, "upgrade", &["websocket, H2C"]).is_none());
    assert!(asked(http1, "upgrade", &["websocket", "h2c"]).is_none());
    assert!(asked(Version::HTTP_10, "upgrade", &["websocket"]).is_none());
    assert!(asked(Version::HTTP_2, "upgrade", &["websocket"]).is_none());
}

fn answered(
    response: http::response::Builder,
    asked: Option<&str>,
) -> Result<ResponseParts, BoxError> {
    let (mut parts, ()) = response.body(()).unwrap().into_parts();
    let asked = asked.map(|asked| HeaderValue::from_str(asked).unwrap());
    super::response(&mut parts, None, asked.as_ref()).map(|()| parts)
}

#[test]
fn responses_are_stripped_too() {
    let response = Response::builder()
        .header("connection", "close, x-once")
        .header("x-once", "1")
        .header("keep-alive", "timeout=5")
        .header("upgrade", "h2c")
        .header("proxy-authenticate", "Basic")
        .header("transfer-encoding", "Chunked")
        .header("content-length", "5")
        .header("set-cookie", "a=b")
        .header("set-cookie", "c=d");
    let parts = answered(response, None).unwrap();
    assert_eq!(lines(&parts.headers), ["set-cookie: a=b", "set-cookie: c=d"]);
    assert_eq!(parts.version, Version::HTTP_11);
}

#[test]
fn an_interim_answer_is_stripped_too() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "x-once"),
        ("x-once", "1"),
        ("keep-alive", "timeout=5"),
        ("content-length", "5"),
        ("link", "</a.css>; rel=preload"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    interim(&mut headers);
    assert_eq!(lines(&headers), ["link: </a.css>; rel=preload"]);
}

#[test]
fn a_connection_that_names_no_field_is_removed_alone() {
    for values in [&["keep-alive"][..], &["Close"], &["close", "Keep-Alive"]] {
        let mut response = Response::builder().header("x-once", "1");
        for value in values {
            response = response.header("connection", *value);
        }
        let parts = answered(response, None).unwrap();
        assert_eq!(lines(&parts.headers), ["x-once: 1"], "{values:?}");
    }
    let response = Response::builder().header("x-once", "1");
    let response = response.header("connection", "keep-alive").header("connection", "x-once");
    assert!(answered(response, None).unwrap().headers.is_empty());
}

#[test]
fn other_transfer_codings_are_refused() {
    for coding in ["gzip, chunked", "gzip", "identity", "chunked, chunked"] {
        let response = Response::builder().header("transfer-encoding", coding);
        assert!(answered(response, None).is_err(), "{coding}");
    }
}

#[test]
fn only_what_was_asked_for_is_switched_to() {
    let switch = |answer: Option<&str>, asked| {
        let mut response = Response::builder().status(101).header("connection", "upgrade");
        if let Some(answer) = answer {
            response = response.header("upgrade", answer);
        }
        answered(response, asked)
    };
    let parts = switch(Some("WebSocket"), Some("websocket")).unwrap();
    assert_eq!(lines(&parts.headers), ["connection: upgrade", "upgrade: WebSocket"]);
    assert!(switch(Some("b"), Some("a, b")).is_ok());
    assert!(switch(Some("c"), Some("a, b")).is_err());
    assert!(switch(None, Some("a")).is_err());
    assert!(switch(Some(""), Some("a")).is_err());
    assert!(switch(Some("a"), None).is_err());
}
