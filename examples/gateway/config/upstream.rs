//! `[upstream]`: how backends are reached.

use std::{net::SocketAddr, time::Duration};

use tower_sticky::{ConfigError, proxy};

#[cfg(feature = "tls")]
use super::tls;
use super::{
    Error,
    connection::{Connection, Keys, of},
    file,
    settings::or,
    words::Http2,
};

/// How backends are reached.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent keys of the configuration file")]
pub(crate) struct Upstream {
    pub(crate) resolve_every: Duration,
    /// The name servers that are asked instead of the system's.
    #[cfg_attr(not(feature = "dns"), expect(dead_code, reason = "there are none then"))]
    pub(crate) nameservers: Vec<SocketAddr>,
    pub(crate) via: bool,
    pub(crate) response_via: bool,
    pub(crate) x_forwarded_port: bool,
    pub(crate) x_real_ip: bool,
    pub(crate) pass_forwarded: Vec<String>,
    connection: Connection,
    /// What `[upstream]` says of TLS, which most backends share.
    #[cfg(feature = "tls")]
    tls: proxy::ClientTls,
}

impl Upstream {
    /// The service of a backend, but for what all backends have in common. An error names the key.
    pub(crate) fn open(&self, backend: &file::Backend) -> Result<proxy::Upstream, ConfigError> {
        let own = backend.connection();
        let keys = Keys { own: &own, at: &backend.at, shared: &self.connection };
        let wrong_url = |error: ConfigError| {
            let key = of(&backend.at, "url");
            ConfigError::new(format!("{key} = {:?}: {error}", backend.url))
        };
        if !is_https(&backend.url) {
            if let Some(key) = own.tls_key() {
                let key = of(&backend.at, key);
                return Err(ConfigError::new(format!(
                    "{key}: is about TLS, and the URL {:?} is not one of https",
                    backend.url
                )));
            }
            return keys.apply(proxy::Upstream::new(&backend.url).map_err(wrong_url)?);
        }
        #[cfg(feature = "tls")]
        let upstream = {
            let tls = match own.tls_key() {
                Some(_) => tls::options(keys)?,
                None => self.tls.clone(),
            };
            proxy::Upstream::with_tls(&backend.url, tls).map_err(wrong_url)?
        };
        #[cfg(not(feature = "tls"))]
        let upstream = proxy::Upstream::new(&backend.url).map_err(wrong_url)?;
        keys.apply(upstream)
    }

    /// Whether HTTP/2 may be spoken with any of the backends, or with those that are not in the file.
    pub(super) fn may_use_http2(&self, backends: &[file::Backend], has_others: bool) -> bool {
        let may_use = |backend: &file::Backend| match backend.http2.or(self.connection.http2) {
            Some(Http2::On) => true,
            // In clear text nothing is chosen.
            Some(Http2::Auto) => is_https(&backend.url),
            Some(Http2::Off) | None => false,
        };
        let others_may = has_others && self.connection.http2.is_some_and(|it| it != Http2::Off);
        others_may || backends.iter().any(may_use)
    }

    /// Whether the certificates of all backends must have one name.
    #[cfg(feature = "dns")]
    pub(crate) fn has_server_name(&self) -> bool {
        self.connection.server_name.is_some()
    }

    /// Whether a backend is not verified.
    pub(crate) fn is_insecure(&self, backend: &file::Backend) -> bool {
        let verify = backend.verify.or(self.connection.verify);
        is_https(&backend.url) && verify == Some(false)
    }

    /// Sets what is added to messages.
    pub(crate) fn apply(&self, upstream: proxy::Upstream) -> Result<proxy::Upstream, ConfigError> {
        let mut upstream = upstream
            .x_forwarded_port(self.x_forwarded_port)
            .x_real_ip(self.x_real_ip)
            .pass_forwarded(self.pass_forwarded.iter().map(String::as_str))?;
        if !self.via {
            upstream = upstream.via(None)?;
        }
        if self.response_via {
            upstream = upstream.response_via(Some("tower-sticky"))?;
        }
        Ok(upstream)
    }
}

pub(super) fn upstream(file: &file::Upstream) -> Result<Upstream, Error> {
    // Checked here, also when there is no backend yet.
    for (position, name) in file.pass_forwarded.iter().enumerate() {
        proxy::Upstream::new("http://127.0.0.1")?
            .pass_forwarded([name.as_str()])
            .map_err(|error| Error::of(&format!("upstream.pass_forwarded[{position}]"), error))?;
    }
    if !file.nameservers.is_empty() && cfg!(not(feature = "dns")) {
        return Err(Error::new(
            "upstream.nameservers needs the feature dns, which this gateway was built without; build it \
             with --features dns, or leave the key out to ask the system's resolver",
        ));
    }
    let (connection, none) = (Connection::from(file), Connection::default());
    let keys = Keys { own: &none, at: "", shared: &connection };
    // Checked here, also when no backend uses them.
    keys.check()?;
    #[cfg(not(feature = "tls"))]
    if let Some(key) = connection.tls_key() {
        return Err(Error::new(format!(
            "upstream.{key} needs the feature tls, which this gateway was built without; build it with \
             --features tls, or leave the key out"
        )));
    }
    #[cfg(feature = "tls")]
    let tls = tls::options(keys)?;
    let nameservers = file.nameservers.iter().enumerate();
    let nameservers = nameservers.map(|(position, text)| nameserver(position, text));
    Ok(Upstream {
        resolve_every: or(file.resolve_every, Duration::from_secs(5)),
        nameservers: nameservers.collect::<Result<_, _>>()?,
        via: file.via.unwrap_or(true),
        response_via: file.response_via,
        x_forwarded_port: file.x_forwarded_port,
        x_real_ip: file.x_real_ip,
        pass_forwarded: file.pass_forwarded.clone(),
        #[cfg(feature = "tls")]
        tls,
        connection,
    })
}

fn is_https(url: &str) -> bool {
    url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"))
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
