//! Finds the client's address, directly or behind trusted proxies.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::{IpNet, Ipv4Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most elements of a header that are read, more than any chain of proxies has.
const MAX_ELEMENTS: usize = 32;

/// The longest element of a header that is read, in bytes: in `Forwarded` an address, two host names and
/// some parameters fit.
const MAX_ELEMENT_LEN: usize = 1024;

/// The header in which trusted proxies give the client's address. It must be one that they write: a
/// header that they forward unchanged can be forged by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Forwarding {
    /// `X-Forwarded-For` when the request has one, else `Forwarded`.
    #[default]
    Auto,
    /// Only `X-Forwarded-For`.
    XForwardedFor,
    /// Only `Forwarded` (RFC 7239).
    Forwarded,
}

/// How the client's address is found, and how many of its bits count.
///
/// It is the address of the peer, unless the peer is a trusted proxy. Then the header is read from the
/// right, where the nearest proxies have appended. Trusted addresses are skipped, and the first untrusted
/// one is the client's. Elements to the left of it were written by an untrusted host, and are ignored.
/// When all addresses are trusted, the left-most one is the client's. At an element that is not an
/// address (`unknown`, `_hidden`, malformed) the search ends with the last address that was read.
#[derive(Debug, Clone)]
pub(crate) struct ClientAddress {
    trusted: Vec<IpNet>,
    forwarding: Forwarding,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
}

impl Default for ClientAddress {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientAddress {
    /// Trusts no proxy. All bits of an IPv4 address count, and the first 64 bits of an IPv6 address,
    /// the prefix that a household or a host keeps while the other bits change.
    pub(crate) fn new() -> Self {
        Self { trusted: Vec::new(), forwarding: Forwarding::Auto, ipv4_prefix: 32, ipv6_prefix: 64 }
    }

    /// Adds the addresses of trusted proxies.
    #[must_use]
    pub(crate) fn trust(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.trusted.extend(networks.into_iter().map(canonical_net));
        self
    }

    /// Sets which header is read; default [`Forwarding::Auto`].
    #[must_use]
    pub(crate) fn forwarding(mut self, forwarding: Forwarding) -> Self {
        self.forwarding = forwarding;
        self
    }

    /// Sets how many leading bits of an IPv4 address count; default 32, which is the most.
    #[must_use]
    pub(crate) fn ipv4_prefix(mut self, bits: u8) -> Self {
        self.ipv4_prefix = bits.min(32);
        self
    }

    /// Sets how many leading bits of an IPv6 address count; default 64, at most 128.
    #[must_use]
    pub(crate) fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = bits.min(128);
        self
    }

    /// The client's address, for a connection from `peer`. With `peer_trusted` the peer is a trusted
    /// proxy, whatever its address is. IPv4-mapped addresses (`::ffff:10.0.0.1`) become IPv4.
    pub(crate) fn find(&self, peer: IpAddr, peer_trusted: bool, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !peer_trusted && !self.trusts(peer) {
            return peer;
        }
        let by_auto = self.forwarding == Forwarding::Auto;
        if self.forwarding == Forwarding::XForwardedFor
            || (by_auto && headers.contains_key(X_FORWARDED_FOR))
        {
            self.search(peer, headers, &X_FORWARDED_FOR, Quotes::None, address)
        } else {
            self.search(peer, headers, &header::FORWARDED, Quotes::Strings, forwarded_for)
        }
    }

    /// The prefix of `address` as bytes for a hash: the number of the address family, and the address
    /// with all other bits 0, an IPv4 address in the first four bytes.
    pub(crate) fn masked(&self, address: IpAddr) -> [u8; 17] {
        let mut bytes = [0; 17];
        let [family, rest @ ..] = &mut bytes;
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.ipv4_prefix)).unwrap_or(0);
                let masked = (v4.to_bits() & mask).to_be_bytes();
                *family = 4;
                rest.iter_mut().zip(masked).for_each(|(to, from)| *to = from);
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.ipv6_prefix)).unwrap_or(0);
                *family = 6;
                *rest = (v6.to_bits() & mask).to_be_bytes();
            }
        }
        bytes
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    fn search(
        &self,
        peer: IpAddr,
        headers: &HeaderMap,
        name: &HeaderName,
        quotes: Quotes,
        read: impl Fn(&[u8]) -> Option<IpAddr>,
    ) -> IpAddr {
        let mut known = peer;
        let fields = headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
        let elements = fields.flat_map(|field| FromTheRight { left: Some(field), quotes });
        for element in elements.take(MAX_ELEMENTS) {
            // Empty elements are ignored (RFC 9110, section 5.6.1.2).
            if element.is_some_and(|element| element.trim_ascii().is_empty()) {
                continue;
            }
            match element.and_then(&read) {
                Some(address) => known = address,
                None => return known,
            }
            if !self.trusts(known) {
                return known;
            }
        }
        known
    }
}

/// The IPv4 network of an IPv4-mapped one such as `::ffff:10.0.0.0/104`; else the network itself.
fn canonical_net(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let Some(v4) = v6.addr().to_ipv4_mapped()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, prefix)
    {
        return v4.into();
    }
    network
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// Quotation marks have no meaning.
    None,
    /// Commas in quoted strings (RFC 9110, section 5.6.4) do not separate elements.
    Strings,
}

/// Iterates over the elements of a comma-separated list, the last one first. Ends with `None` at an
/// element that is longer than [`MAX_ELEMENT_LEN`].
///
/// Quoted strings are parsed from the right as well. The element of the nearest proxy is well formed, so
/// the list does not end inside a string. An unbalanced quotation mark to the left of that element, which
/// an attacker may have sent, does not affect it.
struct FromTheRight<'a> {
    left: Option<&'a [u8]>,
    quotes: Quotes,
}

impl<'a> Iterator for FromTheRight<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        let list = self.left.take()?;
        let window = list.len().saturating_sub(MAX_ELEMENT_LEN);
        let mut quoted = false;
        for (at, &byte) in list.iter().enumerate().skip(window).rev() {
            match byte {
                b'"' if self.quotes == Quotes::Strings => {
                    // In a string, a quotation mark after an odd number of backslashes is escaped.
                    let before = list.iter().take(at).rev();
                    let escapes = before.take(MAX_ELEMENT_LEN).take_while(|&&b| b == b'\\').count();
                    quoted = !quoted || escapes % 2 == 1;
                }
                b',' if !quoted => {
                    let (left, element) = list.split_at_checked(at)?;
                    self.left = Some(left);
                    return Some(element.get(1..));
                }
                _ => {}
            }
        }
        // The first element has no comma before it.
        Some((window == 0).then_some(list))
    }
}

/// An address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`
/// or `[2001:db8::1]:80`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    let address = if let Some(bracketed) = text.strip_prefix('[') {
        let (v6, port) = bracketed.split_once(']')?;
        (port.is_empty() || is_port(port.strip_prefix(':')?)).then_some(())?;
        v6.parse::<Ipv6Addr>().ok()?.into()
    } else if let Ok(address) = text.parse::<IpAddr>() {
        address
    } else {
        let (v4, port) = text.split_once(':')?;
        is_port(port).then_some(())?;
        v4.parse::<Ipv4Addr>().ok()?.into()
    };
    Some(address.to_canonical())
}

/// Digits, or an obfuscated port (RFC 7239, section 6: `_` and letters, digits, `.`, `_`, `-`).
fn is_port(port: &str) -> bool {
    match port.strip_prefix('_') {
        Some(name) => {
            let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !name.is_empty() && name.bytes().all(of_name)
        }
        None => (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// The address in the parameter `for` of an element of `Forwarded` (RFC 7239, section 4). `None`
/// when it has none or several, when it is not an address, or when the element is malformed.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let end = pairs.iter().position(|byte| b"=;".contains(byte)).unwrap_or(pairs.len());
        let (name, value) = pairs.split_at_checked(end)?;
        let name = name.trim_ascii();
        let Some(value) = value.strip_prefix(b"=") else {
            // An extra semicolon is allowed; a name without a value is not.
            name.is_empty().then_some(())?;
            rest = value.get(1..);
            continue;
        };
        let (value, after) = value_of_pair(value.trim_ascii_start())?;
        if name.eq_ignore_ascii_case(b"for") && found.replace(address(&value)?).is_some() {
            return None;
        }
        rest = match after.trim_ascii_start() {
            [] => None,
            [b';', more @ ..] => Some(more),
            _ => return None,
        };
    }
    found
}

/// Splits `pairs` after the value that it starts with. An address needs no quotation marks although its
/// colons and brackets are not token characters, because many proxies write it so.
fn value_of_pair(pairs: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = pairs.strip_prefix(b"\"") else {
        let end = pairs.iter().position(|&byte| byte == b';').unwrap_or(pairs.len());
        let (value, after) = pairs.split_at_checked(end)?;
        return (!value.contains(&b'"')).then_some((Cow::Borrowed(value), after));
    };
    let mut escaped = false;
    let end = quoted.iter().position(|&byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    let (value, after) = quoted.split_at_checked(end)?;
    let value = if value.contains(&b'\\') { unescape(value).into() } else { value.into() };
    Some((value, after.get(1..)?))
}

/// Removes the backslashes that escape bytes of a quoted string.
fn unescape(quoted: &[u8]) -> Vec<u8> {
    let mut bytes = quoted.iter().copied();
    let one =
        || bytes.next().and_then(|byte| if byte == b'\\' { bytes.next() } else { Some(byte) });
    std::iter::from_fn(one).collect()
}

#[cfg(test)]
mod tests;
