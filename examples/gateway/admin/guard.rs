//! Who may call the admin interface.
//!
//! Without a token every process on this machine may. A web page in a browser on this machine may not:
//! neither directly (its `Origin` is foreign) nor by a host name that resolves to our address (DNS
//! rebinding: its `Host` is foreign). A client with the token may use any `Host`.

use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::json::Problem;
use crate::config::Admin;

#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) addr: SocketAddr,
    pub(crate) access: Access,
}

/// Who may call, as the configuration in force says. A handle.
#[derive(Debug, Clone)]
pub(crate) struct Access(Arc<ArcSwap<Allowed>>);

#[derive(Debug, Default)]
struct Allowed {
    token: Option<String>,
    /// Further hosts by which it is reached: names in lower case and IP addresses.
    hosts: Vec<String>,
    /// Whether the metrics are read without the token.
    metrics_open: bool,
}

impl Access {
    pub(crate) fn new(admin: Option<&Admin>) -> Self {
        let access = Self(Arc::default());
        if let Some(admin) = admin {
            access.set(admin);
        }
        access
    }

    pub(crate) fn set(&self, admin: &Admin) {
        let (token, hosts) = (admin.token.clone(), admin.hosts.clone());
        let metrics_open = admin.metrics_open;
        self.0.store(Arc::new(Allowed { token, hosts, metrics_open }));
    }
}

pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    match guard.allows(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

impl Guard {
    fn allows(&self, request: &Request) -> Result<(), Problem> {
        let path = request.uri().path();
        if path == super::HEALTHZ {
            return Ok(());
        }
        let headers = request.headers();
        let host = request.uri().authority().cloned().or_else(|| {
            let host = headers.get(header::HOST)?;
            Authority::try_from(host.as_bytes()).ok()
        });
        let allowed = self.access.0.load();
        let authorized = allowed.token.as_deref().map(|token| has_token(headers, token));
        if authorized != Some(true)
            && !host.as_ref().is_some_and(|host| self.is_ours(host, &allowed.hosts))
        {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the Host is neither the admin address, loopback nor one of admin_hosts",
            ));
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let is_open = reads && path == super::METRICS && allowed.metrics_open;
        if authorized == Some(false) && !is_open {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "`Authorization: Bearer …` with the gateway's admin_token is missing or wrong",
            ));
        }
        // Listening occupies one of a few slots, even for a page that cannot read the response.
        if (reads && path != super::EVENTS) || is_same_origin(headers, host.as_ref()) {
            return Ok(());
        }
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "pages of another origin may neither change the backends nor listen to them",
        ))
    }

    /// Whether a `Host` is the admin address, loopback or one of the further hosts.
    fn is_ours(&self, host: &Authority, hosts: &[String]) -> bool {
        let name = host.host();
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let Ok(ip) = bare.parse::<IpAddr>() else {
            let is = |known: &str| known.eq_ignore_ascii_case(bare);
            return is("localhost") || hosts.iter().any(|known| is(known));
        };
        let (ip, own) = (ip.to_canonical(), self.addr.ip().to_canonical());
        if ip.is_loopback() || hosts.iter().any(|known| known.parse::<IpAddr>() == Ok(ip)) {
            return true;
        }
        // When it listens on all addresses, any IP address may be its own. DNS rebinding needs a host
        // name, never an IP address.
        let is_admin = ip == own || own.is_unspecified();
        is_admin && host.port_u16().unwrap_or(80) == self.addr.port()
    }
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
