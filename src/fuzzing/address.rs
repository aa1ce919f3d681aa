//! The client's address behind proxies.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

use crate::affinity::{ClientAddress, Forwarding};

/// The client's address for a request from `peer`, read from `Forwarded` or else from `X-Forwarded-For`.
pub fn client_address(
    trusted: &[IpNet],
    by_forwarded: bool,
    peer: IpAddr,
    headers: &HeaderMap,
) -> IpAddr {
    let header = if by_forwarded { Forwarding::Forwarded } else { Forwarding::XForwardedFor };
    let address = ClientAddress::new().trust(trusted.iter().copied()).forwarding(header);
    address.find(peer, false, headers)
}
