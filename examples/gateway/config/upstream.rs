//! `[upstream]`: how backends are reached.

use std::{net::SocketAddr, time::Duration};

use super::{Error, file, settings::or};

/// How backends are reached.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub(crate) resolve_every: Duration,
    /// The name servers that are asked instead of the system's.
    #[cfg_attr(not(feature = "dns"), expect(dead_code, reason = "there are none then"))]
    pub(crate) nameservers: Vec<SocketAddr>,
}

pub(super) fn upstream(file: &file::Upstream) -> Result<Upstream, Error> {
    if !file.nameservers.is_empty() && cfg!(not(feature = "dns")) {
        return Err(Error::new(
            "upstream.nameservers needs the feature dns, which this gateway was built without; build it \
             with --features dns, or leave the key out to ask the system's resolver",
        ));
    }
    let nameservers = file.nameservers.iter().enumerate();
    let nameservers = nameservers.map(|(position, text)| nameserver(position, text));
    Ok(Upstream {
        resolve_every: or(file.resolve_every, Duration::from_secs(5)),
        nameservers: nameservers.collect::<Result<_, _>>()?,
    })
}

/// An address, with port 53 unless it contains another one.
fn nameserver(position: usize, text: &str) -> Result<SocketAddr, Error> {
    let without_port = || text.parse().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| without_port()).map_err(|_| {
        Error::new(format!(
            "upstream.nameservers[{position}] = {text:?}: not an address; expected IP or IP:PORT, for \
             example \"10.0.0.2\" or \"[fd00::2]:53\""
        ))
    })
}
