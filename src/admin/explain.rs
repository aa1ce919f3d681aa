//! Reads what is to be explained, and writes the explanation as JSON.

use std::net::IpAddr;

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
    response::Response,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    json::{self, Problem},
    page::words::rfc3339,
    state::Admin,
};
use crate::{
    dispatch::{Explanation, Finding},
    session::Peer,
};

/// The most bytes that are read.
const MAX_TEXT: usize = 64 * 1024;

/// Reads a request out of text: a cookie (`NAME=VALUE`), a header (`Name: value`), the address of a client, or the
/// head of a request, a line for each field.
///
/// # Errors
///
/// A message that says which line cannot be read. It contains no value, which may be a usable token.
pub fn parse_request(text: &str) -> Result<Request<()>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("this is longer than {MAX_TEXT} bytes"));
    }
    let mut request = Request::new(());
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let mut is_empty = true;
    for (position, line) in lines {
        is_empty = false;
        read_line(line, &mut request).ok_or_else(|| {
            format!(
                "line {} is none of these: NAME=VALUE (a cookie), Name: value (a header), an IP \
                 address, GET /path (the first line of a request)",
                position + 1
            )
        })?;
    }
    if is_empty {
        return Err("there is nothing to explain; paste a cookie, a header, an address or the head of a request".to_owned());
    }
    Ok(request)
}

fn read_line(line: &str, request: &mut Request<()>) -> Option<()> {
    if let Ok(ip) = line.parse::<IpAddr>() {
        request.extensions_mut().insert(Peer::new((ip, 0).into()));
        return Some(());
    }
    let mut words = line.split(' ');
    if let (Some(method), Some(target)) = (words.next(), words.next())
        && target.starts_with('/')
        && method.bytes().all(|byte| byte.is_ascii_uppercase())
    {
        *request.method_mut() = Method::try_from(method).ok()?;
        *request.uri_mut() = Uri::try_from(target).ok()?;
        return Some(());
    }
    let colon = line.find(':').filter(|colon| !line[..*colon].contains('='));
    let (name, value) = match colon {
        Some(colon) => (HeaderName::try_from(&line[..colon]).ok()?, line[colon + 1..].trim_start()),
        None => (header::COOKIE, line.contains('=').then_some(line)?),
    };
    request.headers_mut().append(name, HeaderValue::try_from(value).ok()?);
    Some(())
}

/// Body of `POST /explain`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// `NAME=VALUE`.
    cookie: Option<String>,
    /// `Name: value`.
    header: Option<String>,
    /// The address of the client.
    client: Option<String>,
    /// The head of a request.
    request: Option<String>,
}

pub(super) async fn explain(State(admin): State<Admin>, body: Bytes) -> Result<Response, Problem> {
    let wrong = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
    let Query { cookie, header, client, request } = json::parse(&body)?;
    let parts = [request, header, cookie, client];
    let text: Vec<_> = parts.into_iter().flatten().collect();
    let request = parse_request(&text.join("\n")).map_err(wrong)?;
    let explanation = admin.explain(request).await;
    let explanation =
        explanation.map_err(|message| Problem::new(StatusCode::NOT_IMPLEMENTED, message))?;
    Ok(json::answer(StatusCode::OK, &to_json(&explanation)))
}

fn to_json(explanation: &Explanation) -> Value {
    let forecast = &explanation.forecast;
    json!({
        "pool": explanation.pool,
        "findings": explanation.findings.iter().map(finding).collect::<Vec<_>>(),
        "now": {
            "outcome": forecast.verdict.as_str(),
            "backend": forecast.backend.as_ref().map(|backend| backend.as_str()),
            "reason": forecast.reason.map(|reason| reason.as_str()),
            "why": forecast.why,
        },
    })
}

fn finding(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.as_str(),
        "carrier": finding.carrier,
        "valid": finding.problem.is_none(),
        "problem": finding.problem.map(|problem| problem.as_str()),
        "backend": finding.backend.as_ref().map(|backend| backend.as_str()),
        "session": finding.session.map(|session| session.to_string()),
        "issued": finding.issued.map(rfc3339),
        "last_used": finding.last_used.map(rfc3339),
        "expires_if_idle": finding.idle_end.map(rfc3339),
        "expires": finding.absolute_end.map(rfc3339),
        "epoch": finding.epoch,
        "key": finding.key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_headers_addresses_and_heads_are_read() {
        let cookie = parse_request("SERVER_ID=a:b").unwrap();
        assert_eq!(cookie.headers()["cookie"], "SERVER_ID=a:b");
        let header = parse_request("X-Sticky: a=b").unwrap();
        assert_eq!(header.headers()["x-sticky"], "a=b");
        let head = "GET /files/1?x=2 HTTP/1.1\r\nHost: example.org\r\nCookie: a=1; b=2\r\n\r\n";
        let head = parse_request(head).unwrap();
        assert_eq!(head.uri(), "/files/1?x=2");
        assert_eq!(head.headers()["cookie"], "a=1; b=2");
        let client = parse_request("2001:db8::1").unwrap();
        let peer = client.extensions().get::<Peer>().unwrap();
        assert_eq!(peer.addr().ip().to_string(), "2001:db8::1");
    }

    #[test]
    fn what_cannot_be_read_is_not_repeated() {
        for text in ["", " \n ", "secret", "a=1\nsecret", "b\u{7}d: secret", "x: secret\u{1}"] {
            let message = parse_request(text).unwrap_err();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
