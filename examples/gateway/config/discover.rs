//! `[[discover]]`: backends from the domain name system.

use super::{Error, file, words::DiscoverId};

/// A name whose records are backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Discover {
    pub(crate) name: String,
    /// The port of the addresses. `None` for SRV records, which have the ports.
    pub(crate) port: Option<u16>,
    /// Whether the addresses of SRV targets are the backends, instead of the targets.
    pub(crate) address_ids: bool,
    /// Whether the backends are reached over TLS.
    pub(crate) tls: bool,
}

/// The names of the file. They are checked further when the gateway is built.
pub(super) fn discover(sections: &[file::Discover]) -> Result<Vec<Discover>, Error> {
    if !sections.is_empty() && cfg!(not(feature = "dns")) {
        return Err(Error::new(
            "discover needs the feature dns, which this gateway was built without; build it with --features \
             dns, or name the backends in [[backend]] sections",
        ));
    }
    let mut all: Vec<Discover> = Vec::new();
    for (position, section) in sections.iter().enumerate() {
        let key = format!("discover[{position}]");
        let discover = one(&key, section)?;
        let same = |other: &Discover| (&other.name, other.port) == (&discover.name, discover.port);
        if all.iter().any(same) {
            return Err(Error::of(
                &format!("{key}.dns = {:?}", section.dns),
                "an earlier [[discover]] has the same name; leave one of them out",
            ));
        }
        all.push(discover);
    }
    Ok(all)
}

fn one(key: &str, section: &file::Discover) -> Result<Discover, Error> {
    let dns = &section.dns;
    let wrong = |why: &str| Error::new(format!("{key}.dns = {dns:?}: {why}"));
    let is_name = |name: &str| {
        let is_allowed = |c: char| !c.is_ascii() || c.is_ascii_alphanumeric() || "-_.".contains(c);
        !name.is_empty() && name.chars().all(is_allowed)
    };
    let (name, port) = match dns.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (dns.as_str(), None),
    };
    if !is_name(name) {
        return Err(wrong(
            "not a name; expected \"app.example:8080\" for addresses, or \"_http._tcp.app.example\" for SRV \
             records",
        ));
    }
    let port = match (name.starts_with('_'), port) {
        (true, None) => None,
        (true, Some(_)) => {
            return Err(wrong("SRV records have the ports; leave the port out"));
        }
        (false, Some(port)) => match port.parse() {
            Ok(port @ 1..) => Some(port),
            _ => return Err(wrong("the port is not one; expected 1 to 65535")),
        },
        (false, None) => {
            return Err(wrong(
                "addresses have no port; expected one after the name, such as \"app.example:8080\", or SRV \
                 records, whose names begin with '_', such as \"_http._tcp.app.example\"",
            ));
        }
    };
    let address_ids = match (section.id, port) {
        (Some(DiscoverId::Target), Some(_)) => {
            return Err(Error::new(format!(
                "{key}.id = \"target\": the addresses of a name have no targets, only SRV records have; use \
                 \"address\", or leave it out"
            )));
        }
        (id, port) => port.is_some() || id == Some(DiscoverId::Address),
    };
    if section.tls && cfg!(not(feature = "tls")) {
        return Err(Error::new(format!(
            "{key}.tls needs the feature tls, which this gateway was built without; build it with --features \
             tls, or leave the key out"
        )));
    }
    Ok(Discover { name: name.to_owned(), port, address_ids, tls: section.tls })
}
