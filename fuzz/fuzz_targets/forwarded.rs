//! The client's address in `X-Forwarded-For` and `Forwarded`: what the trusted proxies have written counts, whatever
//! stands to the left of it.

#![no_main]

use std::{fmt::Write as _, net::IpAddr};

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderName, HeaderValue, header::FORWARDED};
use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use tower_sticky::fuzzing::client_address;
use tower_sticky_fuzz::fields;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// As many elements are read.
const MAX_ELEMENTS: usize = 32;
const PEER: &str = "10.0.0.1";

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    /// What an untrusted client has sent.
    sent: &'a [u8],
    /// What the proxies have appended, the nearest one last.
    hops: Vec<Hop>,
    /// Whether the proxies add a field, and not to the last one.
    own_field: bool,
}

/// One element, as a proxy writes it.
#[derive(Debug, Arbitrary)]
struct Hop {
    address: [u8; 4],
    v6: Option<[u16; 8]>,
    /// Whether it is that of a trusted proxy.
    trusted: bool,
    port: Option<u16>,
    upper: bool,
    /// Behind or before the address: a host with characters that need quotes.
    host: Option<Vec<u8>>,
    host_first: bool,
    space: bool,
}

impl Hop {
    fn address(&self) -> IpAddr {
        let [_, b, c, d] = self.address;
        match self.v6 {
            Some(v6) if self.trusted => IpAddr::from([0xfd00, 0, v6[2], v6[3], 4, 5, 6, v6[7]]),
            Some(v6) => IpAddr::from([0x2001, v6[1], v6[2], v6[3], v6[4], v6[5], v6[6], v6[7]]),
            None => IpAddr::from([if self.trusted { 10 } else { 192 }, b, c, d]),
        }
    }

    /// The address, with a port if it has one.
    fn node(&self) -> String {
        match (self.address(), self.port) {
            (IpAddr::V4(v4), Some(port)) => format!("{v4}:{port}"),
            (IpAddr::V6(v6), Some(port)) => format!("[{v6}]:{port}"),
            (address, None) => address.to_string(),
        }
    }

    /// As an element of `Forwarded` (RFC 7239).
    fn element(&self) -> String {
        let node = match (self.address(), self.port) {
            (IpAddr::V6(v6), None) => format!("[{v6}]"),
            _ => self.node(),
        };
        let node = if node.contains(':') { format!("\"{node}\"") } else { node };
        let by = format!("{}={node}", if self.upper { "For" } else { "for" });
        let Some(host) = &self.host else { return by };
        let mut quoted = String::from("host=\"");
        for byte in host.iter().filter(|byte| (b' '..=b'~').contains(*byte)).take(200) {
            let escape = if b"\"\\".contains(byte) { "\\" } else { "" };
            let _ = write!(quoted, "{escape}{}", char::from(*byte));
        }
        quoted.push('"');
        let pair = if self.host_first { [quoted, by] } else { [by, quoted] };
        pair.join(if self.space { "; " } else { ";" })
    }
}

fn trusted() -> Vec<IpNet> {
    ["10.0.0.0/8", "fd00::/16"].map(|net| net.parse().expect("a network")).to_vec()
}

fn read(by_forwarded: bool, fields: &[HeaderValue]) -> IpAddr {
    let mut headers = HeaderMap::new();
    let name = if by_forwarded { FORWARDED } else { X_FORWARDED_FOR };
    for field in fields {
        headers.append(&name, field.clone());
    }
    client_address(&trusted(), by_forwarded, PEER.parse().expect("an address"), &headers)
}

fn trusts(address: IpAddr) -> bool {
    trusted().iter().any(|net| net.contains(&address))
}

/// Appends what the proxies write to what a client has sent.
fn appended(sent: &[HeaderValue], hops: &[String], own_field: bool) -> Vec<HeaderValue> {
    let mut all = sent.to_vec();
    if hops.is_empty() {
        return all;
    }
    let mut text = hops.join(", ").into_bytes();
    if !own_field && let Some(last) = all.pop() {
        text = [last.as_bytes(), b", ", &text].concat();
    }
    all.push(HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).expect("a header's value"));
    all
}

/// `X-Forwarded-For` read slowly: all elements, and then from the last one on.
fn reference(fields: &[HeaderValue]) -> IpAddr {
    let joined = fields.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b',');
    let elements: Vec<_> = joined.split(|byte| *byte == b',').collect();
    let mut known: IpAddr = PEER.parse().expect("an address");
    for element in elements.into_iter().rev().take(MAX_ELEMENTS) {
        let Ok(text) = std::str::from_utf8(element) else { break };
        let text = text.trim_matches(|c: char| c == ' ' || c == '\t');
        if text.is_empty() {
            continue;
        }
        let Some(address) = node(text) else { break };
        known = address;
        if !trusts(known) {
            break;
        }
    }
    known
}

/// An address, with or without a port.
fn node(text: &str) -> Option<IpAddr> {
    let is_port = |port: &str| match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        }
        None => (1..=5).contains(&port.len()) && port.chars().all(|c| c.is_ascii_digit()),
    };
    let host = match text.rsplit_once(':') {
        // `1::2` is an address with nothing behind it.
        Some((host, port)) if is_port(port) && (host.ends_with(']') || !host.contains(':')) => host,
        _ => text,
    };
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let address = match v6 {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => host.parse().ok()?,
    };
    Some(address.to_canonical())
}

fuzz_target!(|input: Input<'_>| {
    if input.sent.len() > 900 {
        return;
    }
    let sent = fields(input.sent);
    assert_eq!(read(false, &sent), reference(&sent), "{sent:?}");
    read(true, &sent);

    let hops = &input.hops[..input.hops.len().min(8)];
    // From the right, the first untrusted address is the client's.
    let client = hops.iter().rev().map(Hop::address).find(|address| !trusts(*address));
    let nodes: Vec<_> = hops.iter().map(Hop::node).collect();
    let elements: Vec<_> = hops.iter().map(Hop::element).collect();
    let by_nodes = read(false, &appended(&sent, &nodes, input.own_field));
    let by_elements = read(true, &appended(&sent, &elements, input.own_field));
    if let Some(client) = client {
        assert_eq!(by_nodes, client.to_canonical(), "{nodes:?}");
        assert_eq!(by_elements, client.to_canonical(), "{elements:?}");
    }
});
