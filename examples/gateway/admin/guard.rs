//! Who may call the admin interface.
//!
//! Without a token every process on this machine may. A web page in a browser on this machine must not:
//! neither directly (its `Origin` is foreign) nor by a host name that resolves to our address (DNS
//! rebinding: its `Host` is foreign).

use std::{
    hint::black_box,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::json::Problem;

#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) addr: SocketAddr,
    pub(crate) token: Option<String>,
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
        let headers = request.headers();
        if let Some(token) = &self.token
            && !bearer(headers).is_some_and(|given| equal(given, token.as_bytes()))
        {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "`Authorization: Bearer …` with the gateway's admin_token is missing or wrong",
            ));
        }
        // Listening occupies one of a few slots, even for a page that cannot read the response.
        let listens = request.uri().path() == super::EVENTS;
        if matches!(*request.method(), Method::GET | Method::HEAD) && !listens {
            return Ok(());
        }
        let host = request.uri().authority().cloned().or_else(|| {
            let host = headers.get(header::HOST)?;
            Authority::try_from(host.as_bytes()).ok()
        });
        let Some(host) = host.filter(|host| self.is_ours(host)) else {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "the Host is neither the admin address nor loopback",
            ));
        };
        for origin in headers.get_all(header::ORIGIN) {
            let own = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.strip_prefix("http://"))
                .is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str()));
            if !own {
                return Err(Problem::new(
                    StatusCode::FORBIDDEN,
                    "pages of another origin may neither change the backends nor listen to them",
                ));
            }
        }
        Ok(())
    }

    /// Whether a `Host` is the admin address or loopback.
    fn is_ours(&self, host: &Authority) -> bool {
        let name = host.host();
        if name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let Ok(ip) = bare.parse::<IpAddr>() else {
            return false;
        };
        let (ip, own) = (ip.to_canonical(), self.addr.ip().to_canonical());
        if ip.is_loopback() {
            return true;
        }
        // When it listens on all addresses, any IP address may be its own. DNS rebinding needs a host
        // name, never an IP address.
        let is_admin = ip == own || own.is_unspecified();
        is_admin && host.port_u16().unwrap_or(80) == self.addr.port()
    }
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
