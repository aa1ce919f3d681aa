//! The admin interface, mounted in an Axum application.

use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{Method, Request, StatusCode, header};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Mode, Peer, PoolError,
    admin::{self, About, AdminRouter, Application, NewBackend},
};

use crate::support::{Client, Node, nodes, plain, sealed};

/// The status, the headers and the text of an answer.
type Answer = (StatusCode, http::HeaderMap, String);

async fn call(app: &Router, request: Request<Body>) -> Answer {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
}

fn request(method: Method, path: &str, body: &str) -> Request<Body> {
    let peer = Peer::new("127.0.0.1:5".parse().unwrap());
    let builder = Request::builder().method(method).uri(path).header("host", "localhost");
    builder.extension(peer).body(Body::from(body.to_owned())).unwrap()
}

async fn get(app: &Router, path: &str) -> Answer {
    call(app, request(Method::GET, path, "")).await
}

fn mounted(admin: AdminRouter) -> Router {
    Router::new().nest("/sticky", admin.build())
}

/// The value of the token in a form.
fn form_token(page: &str) -> &str {
    let start = page.split("name=\"form_token\" value=\"").nth(1).expect("a form with a token");
    start.split('"').next().unwrap()
}

/// Submits the form on a page.
async fn submit(app: &Router, path: &str, fields: &str) -> Answer {
    let (status, _, page) = get(app, path).await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let body = format!("form_token={}&{fields}", form_token(&page));
    call(app, request(Method::POST, path, &body)).await
}

#[tokio::test]
async fn the_page_is_small_and_its_links_are_below_its_path() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let app = mounted(admin::router(backends));
    let (status, headers, page) = get(&app, "/sticky").await;
    assert_eq!(status, StatusCode::OK);
    let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.contains("style=\"") && !page.contains("onclick"), "{page}");
    assert!(page.contains("All is well."), "{page}");
    assert!(page.contains("<noscript><meta http-equiv=\"refresh\""), "{page}");
    let mut size = page.len();
    for link in page.split("href=\"").skip(1).chain(page.split("src=\"").skip(1)) {
        let link = link.split('"').next().unwrap().replace("&amp;", "&");
        if link == "#content" {
            continue;
        }
        assert!(link == "/sticky" || link.starts_with("/sticky/"), "{link}");
        let (status, _, content) = get(&app, &link).await;
        assert_eq!(status, StatusCode::OK, "{link}");
        if link.ends_with(".css") || link.ends_with(".js") {
            size += content.len();
        }
    }
    assert!(size <= 60_000, "the page with its style and script has {size} bytes");
}

#[tokio::test]
async fn a_backend_is_drained_by_a_form() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let app = mounted(admin::router(backends.clone()));
    let service = sealed(&backends).into_service();
    Client::assigned(&service).await;
    let (_, _, page) = get(&app, "/sticky/view/backends/a/drain").await;
    assert!(page.contains("in flight") && page.contains("New sessions go to b"), "{page}");
    let path = "/sticky/view/backends/a/drain";
    let (status, headers, _) = submit(&app, path, "deadline=10m&then=borrow").await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    assert_eq!(headers[header::LOCATION], "/sticky/view/backends/a");
    let status = backends.get("a").unwrap();
    assert_eq!(status.mode, Mode::Draining);
    let left = status.drain.unwrap().remaining.unwrap();
    assert!(left.as_secs() > 500, "{left:?}");
    let (_, _, page) = get(&app, "/sticky").await;
    assert!(page.contains("at the latest in"), "{page}");

    let (status, _, page) = submit(&app, path, "deadline=soon").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(page.contains("is not a duration"), "{page}");
    for (action, fields) in
        [("weigh", "weight=7"), ("limit", "max_connections=9"), ("disable", ""), ("enable", "")]
    {
        let path = format!("/sticky/view/backends/a/{action}");
        assert_eq!(submit(&app, &path, fields).await.0, StatusCode::SEE_OTHER, "{action}");
    }
    let status = backends.get("a").unwrap();
    assert_eq!((status.weight, status.limit, status.mode), (7, 9, Mode::Active));
    assert!(status.drain.is_none(), "to enable it ends its drain");
    let (status, headers, _) = submit(&app, "/sticky/view/backends/a/remove", "").await;
    assert_eq!(
        (status, &headers[header::LOCATION]),
        (StatusCode::SEE_OTHER, &"/sticky".parse().unwrap())
    );
    assert!(backends.get("a").is_none());
    assert_eq!(get(&app, "/sticky/view/backends/a").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn forms_of_other_pages_are_refused() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let app = mounted(admin::router(backends.clone()));
    let path = "/sticky/view/backends/a/disable";
    let (_, _, page) = get(&app, path).await;
    let token = form_token(&page);
    for (name, header, body) in [
        ("no token", None, String::new()),
        ("another token", None, "form_token=AAAA".to_owned()),
        ("another origin", Some(("origin", "http://evil.example")), format!("form_token={token}")),
        ("another site", Some(("sec-fetch-site", "cross-site")), format!("form_token={token}")),
        ("a sibling", Some(("sec-fetch-site", "same-site")), format!("form_token={token}")),
    ] {
        let mut request = request(Method::POST, path, &body);
        if let Some((header, value)) = header {
            request.headers_mut().insert(header, value.parse().unwrap());
        }
        assert_eq!(call(&app, request).await.0, StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(backends.get("a").unwrap().mode, Mode::Active);
}

#[tokio::test]
async fn a_read_only_router_changes_nothing() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let layer = plain(&backends);
    let app = mounted(admin::router(backends.clone()).layer(&layer).read_only());
    let (_, _, page) = get(&app, "/sticky").await;
    assert!(page.contains("read-only") && !page.contains("/drain"), "{page}");
    for (method, path, body) in [
        (Method::PATCH, "/sticky/backends/a", "{\"mode\":\"disabled\"}"),
        (Method::DELETE, "/sticky/backends/a", ""),
        (Method::POST, "/sticky/view/backends/a/disable", ""),
    ] {
        let (status, _, text) = call(&app, request(method, path, body)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path} {text}");
        assert!(text.contains("read-only"), "{text}");
    }
    assert_eq!(backends.get("a").unwrap().mode, Mode::Active);
    let explain = request(Method::POST, "/sticky/explain", "{\"cookie\":\"sid=b\"}");
    let (status, _, text) = call(&app, explain).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(answer["now"]["outcome"], "pinned");
    assert_eq!(answer["now"]["backend"], "b");
    assert_eq!(answer["findings"][0]["kind"], "plain token");
}

#[tokio::test]
async fn who_may_call_without_a_token() {
    let (backends, _nodes) = nodes(["a"]);
    let app = mounted(admin::router(backends.clone()));
    let from = |peer: Option<&str>, method: Method| {
        let mut request = request(method, "/sticky/backends/a", "{\"weight\":2}");
        request.extensions_mut().remove::<Peer>();
        if let Some(peer) = peer {
            request.extensions_mut().insert(Peer::new(peer.parse().unwrap()));
        }
        request
    };
    for (peer, expected) in [
        (Some("127.0.0.1:1"), StatusCode::OK),
        (Some("[::1]:1"), StatusCode::OK),
        (Some("10.0.0.9:1"), StatusCode::FORBIDDEN),
        (None, StatusCode::FORBIDDEN),
    ] {
        let status = call(&app, from(peer, Method::PATCH)).await.0;
        assert_eq!(status, expected, "{peer:?}");
    }
    let mut read = from(None, Method::GET);
    *read.uri_mut() = "/sticky/backends".parse().unwrap();
    assert_eq!(call(&app, read).await.0, StatusCode::OK, "an unknown client may read");
    let mut read = from(Some("10.0.0.9:1"), Method::GET);
    *read.uri_mut() = "/sticky/backends".parse().unwrap();
    assert_eq!(call(&app, read).await.0, StatusCode::FORBIDDEN);
    let open = mounted(admin::router(backends).without_token());
    assert_eq!(call(&open, from(Some("10.0.0.9:1"), Method::PATCH)).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_login_gives_a_session_and_basic_is_accepted() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let app = mounted(admin::router(backends).token("open sesame"));
    let (status, headers, page) = get(&app, "/sticky").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!headers.contains_key(header::WWW_AUTHENTICATE), "a browser shows the form");
    assert!(page.contains("Admin token") && !page.contains("Backends"), "{page}");
    assert_eq!(get(&app, "/sticky/view/style.css").await.0, StatusCode::OK);
    assert_eq!(get(&app, "/sticky/backends").await.0, StatusCode::UNAUTHORIZED);

    let log_in =
        |token: &str| request(Method::POST, "/sticky/view/login", &format!("token={token}"));
    let (status, headers, _) = call(&app, log_in("open+sesam")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!headers.contains_key(header::SET_COOKIE));
    let (status, headers, _) = call(&app, log_in("open+sesame")).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let cookie = headers[header::SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("; Path=/sticky; ") && cookie.contains("HttpOnly; SameSite=Strict"));
    assert!(!cookie.contains("Secure"), "the client uses http: {cookie}");
    let session = cookie.split(';').next().unwrap().to_owned();

    let with = |method: Method, path: &str, body: &str, name: &'static str, value: &str| {
        let mut request = request(method, path, body);
        request.headers_mut().insert(name, value.parse().unwrap());
        request
    };
    let (status, _, page) = call(&app, with(Method::GET, "/sticky", "", "cookie", &session)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("Log out"), "{page}");
    let path = "/sticky/view/backends/a/disable";
    let (_, _, page) = call(&app, with(Method::GET, path, "", "cookie", &session)).await;
    let body = format!("form_token={}", form_token(&page));
    let (status, ..) = call(&app, with(Method::POST, path, &body, "cookie", &session)).await;
    assert_eq!(status, StatusCode::SEE_OTHER);
    let wrong = format!("{}x", &session[..session.len() - 1]);
    let (status, ..) = call(&app, with(Method::GET, "/sticky", "", "cookie", &wrong)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // "operator:open sesame" and "operator:other".
    for (basic, expected) in [
        ("Basic b3BlcmF0b3I6b3BlbiBzZXNhbWU=", StatusCode::OK),
        ("Basic b3BlcmF0b3I6b3RoZXI=", StatusCode::UNAUTHORIZED),
    ] {
        let request = with(Method::GET, "/sticky/backends", "", "authorization", basic);
        assert_eq!(call(&app, request).await.0, expected);
    }
}

#[tokio::test]
async fn what_is_hostile_is_escaped() {
    let evil = "<img src=x onerror=alert(1)>\"'&";
    let backends: Backends<Node> = Backends::new();
    let id = "<b>&\"'";
    let added = backends.insert(id, Node::new("x"));
    struct Evil(&'static str);
    impl Application for Evil {
        fn about(&self, _: &str) -> About {
            About::at(self.0)
        }
        fn configuration(&self) -> Vec<(String, String)> {
            vec![(self.0.to_owned(), self.0.to_owned())]
        }
    }
    let layer = plain(&backends);
    let app = mounted(admin::router(backends).layer(&layer).application(Evil(evil)).title(evil));
    let encoded: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut pages = vec![
        "/sticky".to_owned(),
        format!("/sticky?q={encoded}&only={encoded}"),
        format!(
            "/sticky/view/moves?session={encoded}&from={encoded}&to={encoded}&reason={encoded}"
        ),
        "/sticky/view/configuration".to_owned(),
        format!("/sticky/view/backends/{encoded}"),
    ];
    if added.is_ok() {
        pages.push(format!("/sticky/view/backends/{encoded}/drain"));
    }
    for path in pages {
        let (_, _, page) = get(&app, &path).await;
        for raw in ["<img src=x", "<b>&", "onerror=alert(1)>\""] {
            assert!(!page.contains(raw), "{path}: {page}");
        }
    }
    let path = "/sticky/view/explain";
    let (status, _, page) = submit(&app, path, "text=sid%3D%3Cimg+src%3Dx%3E").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("Explain a token") && !page.contains("<img"), "{page}");
}

#[tokio::test]
async fn a_backend_is_added_if_the_application_can() {
    let (backends, _nodes) = nodes(["a"]);
    let put = || request(Method::PUT, "/sticky/backends/b", "{\"url\":\"x\",\"weight\":3}");
    let (status, _, text) = call(&mounted(admin::router(backends.clone())), put()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("adds no backends here"), "{text}");
    struct Adds(Backends<Node>);
    impl Application for Adds {
        fn put(&self, id: &str, new: &NewBackend) -> Result<bool, PoolError> {
            self.0.insert(id, Node::new("b"))?;
            self.0.set_weight(id, new.weight)?;
            Ok(true)
        }
    }
    let app = mounted(admin::router(backends.clone()).application(Adds(backends.clone())));
    let (status, _, text) = call(&app, put()).await;
    assert_eq!(status, StatusCode::CREATED, "{text}");
    assert_eq!(backends.get("b").unwrap().weight, 3);
}

#[tokio::test]
async fn moves_are_listed_and_filtered() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let app = mounted(admin::router(backends.clone()));
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    let home = backends.iter().find(|backend| backend.requests == 1).unwrap().id;
    backends.set_mode(home.as_str(), Mode::Disabled).unwrap();
    client.send(&service, crate::support::get()).await;
    let (_, _, text) = get(&app, "/sticky/moves").await;
    let moves: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(moves.as_array().unwrap().len(), 1);
    assert_eq!(moves[0]["from"], home.as_str());
    assert_eq!(moves[0]["reason"], "disabled");
    let session = moves[0]["session"].as_str().unwrap();
    assert_eq!(session.len(), 16);
    for (query, found) in [
        (format!("session={}", &session[..6]), true),
        (format!("from={home}"), true),
        (format!("to={home}"), false),
        ("reason=down".to_owned(), false),
        ("reason=disabled".to_owned(), true),
    ] {
        let (_, _, text) = get(&app, &format!("/sticky/moves?{query}")).await;
        assert_eq!(text.contains(session), found, "{query}");
        let (_, _, page) = get(&app, &format!("/sticky/view/moves?{query}")).await;
        assert_eq!(page.contains("No session has moved."), !found, "{query}");
    }
    let (_, _, page) = get(&app, "/sticky").await;
    assert!(page.contains(session), "the last moves are on the overview");
    let explained = backends.moves();
    assert_eq!(explained[0].session.unwrap().to_string(), session);
}
