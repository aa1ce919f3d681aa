//! Decides who may call the admin interface.
//!
//! Without a token every process on this machine may. A web page in a browser on this machine may not:
//! neither directly (its `Origin` is foreign) nor by a host name that resolves to our address (DNS
//! rebinding: its `Host` is foreign). A client with the token may use any `Host`.

use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    access::{Access, Rules},
    api::{EVENTS, HEALTHZ, METRICS},
    json::Problem,
    state::Admin,
};
use crate::session::Peer;

pub(super) async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    match access.rules().allow(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Refuses changes, when the router is read-only.
pub(super) async fn refuse_changes(
    State(admin): State<Admin>,
    request: Request,
    next: Next,
) -> Response {
    if admin.read_only && !is_read(request.method()) {
        let message = "this admin interface is read-only";
        return Problem::new(StatusCode::FORBIDDEN, message).into_response();
    }
    next.run(request).await
}

/// Whether a request with this method changes nothing.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

impl Rules {
    fn allow(&self, request: &Request) -> Result<(), Problem> {
        let path = request.uri().path();
        if path == HEALTHZ {
            return Ok(());
        }
        let headers = request.headers();
        let host = request.uri().authority().cloned().or_else(|| {
            let host = headers.get(header::HOST)?;
            Authority::try_from(host.as_bytes()).ok()
        });
        let authorized = self.token.as_deref().map(|token| has_token(headers, token));
        if authorized != Some(true) && !host.as_ref().is_some_and(|host| self.is_ours(host)) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the Host is neither the admin address, loopback nor one of admin_hosts",
            ));
        }
        let reads = is_read(request.method());
        let is_open = reads && path == METRICS && self.metrics_open;
        if authorized == Some(false) && !is_open {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "`Authorization: Bearer …` with the admin token is missing or wrong",
            ));
        }
        if authorized.is_none() && !self.open && !is_open {
            self.check_peer(request, reads)?;
        }
        // Listening occupies one of a few slots, even for a page that cannot read the response.
        if (reads && path != EVENTS) || is_same_origin(headers, host.as_ref()) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "pages of another origin may neither change the backends nor listen to them",
        ))
    }

    /// Without a token only clients on this machine may call, and those with an unknown address may read.
    fn check_peer(&self, request: &Request, reads: bool) -> Result<(), Problem> {
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

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    bearer(headers).is_some_and(|given| equal(given, token.as_bytes()))
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in constant time for a given length.
fn equal(given: &[u8], expected: &[u8]) -> bool {
    if given.len() != expected.len() {
        return false;
    }
    let differences = given.iter().zip(expected).fold(0, |all, (a, b)| black_box(all | (a ^ b)));
    differences == 0
}
