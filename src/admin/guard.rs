//! Decides who may call the admin interface.
//!
//! Without a token every process on this machine may. A web page in a browser on this machine may not:
//! neither directly (its `Origin` is foreign) nor by a host name that resolves to our address (DNS
//! rebinding: its `Host` is foreign). A client with the token may use any `Host`.

use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

use axum::{
    Extension,
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    access::Rules,
    api::{EVENTS, HEALTHZ, METRICS},
    json::Problem,
    session::basic_password,
    state::Admin,
    visit::{Visit, ask_to_log_in},
};
use crate::session::Peer;

/// The paths of the pages.
const PAGES: &str = "/view/";
pub(super) const LOGIN: &str = "/view/login";
pub(super) const LOGOUT: &str = "/view/logout";
pub(super) const STYLE: &str = "/view/style.css";
pub(super) const SCRIPT: &str = "/view/script.js";
pub(super) const ICON: &str = "/view/icon.svg";

/// What changes nothing although it is a `POST`.
const HARMLESS: [&str; 4] = ["/explain", "/view/explain", LOGIN, LOGOUT];

pub(super) async fn check(
    State(admin): State<Admin>,
    Extension(visit): Extension<Visit>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let is_page = path == "/" || path.starts_with(PAGES);
    match allow(&admin, &request, visit.now) {
        Ok(()) => next.run(request).await,
        Err(problem) if is_page && problem.status() == StatusCode::UNAUTHORIZED => {
            ask_to_log_in(&visit.frame, None)
        }
        Err(problem) if is_page => visit.frame.problem(problem.status(), problem.message()),
        Err(problem) => problem.into_response(),
    }
}

/// Whether a request changes nothing.
fn reads(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

fn allow(admin: &Admin, request: &Request, now: SystemTime) -> Result<(), Problem> {
    let (path, headers) = (request.uri().path(), request.headers());
    if path == HEALTHZ {
        return Ok(());
    }
    let (rules, reads) = (admin.access.rules(), reads(request));
    let host = request.uri().authority().cloned().or_else(|| {
        let host = headers.get(header::HOST)?;
        Authority::try_from(host.as_bytes()).ok()
    });
    let authorized = rules
        .token
        .as_deref()
        .map(|token| has_token(headers, token) || admin.sessions.is_logged_in(headers, token, now));
    if authorized != Some(true) && !host.as_ref().is_some_and(|host| rules.is_ours(host)) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "the Host is neither the admin address, loopback nor one of the named hosts \
             (`admin_hosts` in the gateway's file, `AdminRouter::hosts` in a program)",
        ));
    }
    let is_open = (reads && path == METRICS && rules.metrics_open)
        || [LOGIN, STYLE, SCRIPT, ICON].contains(&path);
    if authorized == Some(false) && !is_open {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "`Authorization: Bearer …` with the admin token is missing or wrong",
        ));
    }
    if authorized.is_none() && !rules.open && !is_open {
        check_peer(request, reads)?;
    }
    // Listening occupies one of a few slots, even for a page that cannot read the response.
    let is_harmless = reads && path != EVENTS;
    if !is_harmless && !is_from_us(headers, host.as_ref()) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "pages of another origin may neither change the backends nor listen to them",
        ));
    }
    if admin.read_only && !reads && !HARMLESS.contains(&path) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this admin interface is read-only"));
    }
    Ok(())
}

/// Without a token only clients on this machine may call, and those with an unknown address may read.
fn check_peer(request: &Request, reads: bool) -> Result<(), Problem> {
    let refused = |message| Err(Problem::new(StatusCode::FORBIDDEN, message));
    match peer(request) {
        // A client on a Unix socket has the address 0.0.0.0.
        Some(ip) if ip.is_loopback() || ip.is_unspecified() => Ok(()),
        Some(_) => refused("without a token only clients on this machine may call; set a token"),
        None if reads => Ok(()),
        None => refused(
            "the address of the client is not known, so it may change nothing; set a token, or \
             serve with connect info",
        ),
    }
}

impl Rules {
    /// Whether a `Host` is the admin address, loopback or one of the further hosts.
    fn is_ours(&self, host: &Authority) -> bool {
        let name = host.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let Ok(ip) = bare.parse::<IpAddr>() else {
            let is = |known: &str| known.eq_ignore_ascii_case(bare);
            return is("localhost") || self.hosts.iter().any(|known| is(known));
        };
        let ip = ip.to_canonical();
        if ip.is_loopback() || self.hosts.iter().any(|known| known.parse::<IpAddr>() == Ok(ip)) {
            return true;
        }
        let Some(address) = self.address else { return false };
        let own = address.ip().to_canonical();
        // When it listens on all addresses, any IP address may be its own. DNS rebinding needs a host
        // name, never an IP address.
        let is_admin = ip == own || own.is_unspecified();
        is_admin && host.port_u16().unwrap_or(80) == address.port()
    }
}

/// The address of the client, as far as the server says.
fn peer(request: &Request) -> Option<IpAddr> {
    let extensions = request.extensions();
    let connection = || extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0);
    let addr = extensions.get::<Peer>().map(Peer::addr).or_else(connection)?;
    Some(addr.ip().to_canonical())
}

/// Whether a request comes from one of our pages, or from no page at all: by `Sec-Fetch-Site`, which browsers send,
/// and by `Origin`.
fn is_from_us(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    matches!(site, None | Some(b"same-origin" | b"none")) && is_same_origin(headers, host)
}

/// Whether each `Origin` of the request, if any, is the one that it is sent to. The scheme does not
/// matter: a proxy in front of the admin interface may end TLS.
fn is_same_origin(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| {
            origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
        });
        let (Some(origin), Some(host)) = (origin, host) else {
            return false;
        };
        origin.eq_ignore_ascii_case(host.as_str())
    })
}

/// Whether a request has the token, as Bearer or as the password of Basic.
fn has_token(headers: &HeaderMap, token: &str) -> bool {
    let is_token = |given: &[u8]| equal(given, token.as_bytes());
    bearer(headers).is_some_and(is_token)
        || basic_password(headers).is_some_and(|given| is_token(&given))
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in constant time for a given length.
pub(super) fn equal(given: &[u8], expected: &[u8]) -> bool {
    if given.len() != expected.len() {
        return false;
    }
    let differences = given.iter().zip(expected).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    differences == 0
}
