//! How connections to backends are made: keys of `[upstream]`, each of which may stand in a `[[backend]]` too.

use std::time::Duration;

use tower_sticky::{ConfigError, proxy};

use super::{
    units::{Count, Time},
    words::{Http2, SendProxy},
};

/// Declares a section that has the keys about connections to backends after its own. Serde could read them into a
/// struct of their own, but then neither refuses unknown keys nor names the line of a wrong one.
macro_rules! with_connection_keys {
    ($(#[$meta:meta])* pub(crate) struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        pub(crate) struct $name {
            $($own)*
            pub(crate) http2: Option<Http2>,
            pub(crate) ca: Option<Vec<String>>,
            pub(crate) client_cert: Option<String>,
            pub(crate) client_key: Option<String>,
            pub(crate) server_name: Option<String>,
            pub(crate) verify: Option<bool>,
            pub(crate) handshake_timeout: Option<Time<1>>,
            pub(crate) send_proxy: Option<SendProxy>,
            pub(crate) max_idle: Option<Count>,
            pub(crate) idle_timeout: Option<Time<1>>,
        }

        impl From<&$name> for $crate::config::connection::Connection {
            fn from(section: &$name) -> Self {
                Self {
                    http2: section.http2,
                    ca: section.ca.clone(),
                    client_cert: section.client_cert.clone(),
                    client_key: section.client_key.clone(),
                    server_name: section.server_name.clone(),
                    verify: section.verify,
                    handshake_timeout: section.handshake_timeout,
                    send_proxy: section.send_proxy,
                    max_idle: section.max_idle,
                    idle_timeout: section.idle_timeout,
                }
            }
        }
    };
}

pub(super) use with_connection_keys;

with_connection_keys! {
    /// The keys of one section, as they are written.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub(crate) struct Connection {}
}

impl Connection {
    /// The first of the keys that are about TLS.
    pub(super) fn tls_key(&self) -> Option<&'static str> {
        [
            ("ca", self.ca.is_some()),
            ("client_cert", self.client_cert.is_some()),
            ("client_key", self.client_key.is_some()),
            ("server_name", self.server_name.is_some()),
            ("verify", self.verify.is_some()),
            ("handshake_timeout", self.handshake_timeout.is_some()),
        ]
        .into_iter()
        .find_map(|(key, is_given)| is_given.then_some(key))
    }
}

/// The keys of a backend, and those of `[upstream]` for what it leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) own: &'a Connection,
    /// Where the backend stands in the configuration: `backend[0]`.
    pub(super) at: &'a str,
    pub(super) shared: &'a Connection,
}

impl<'a> Keys<'a> {
    /// The value of a key, with the name of the section that it is from.
    pub(super) fn get<T>(self, key: impl Fn(&'a Connection) -> Option<T>) -> Option<(T, &'a str)> {
        let own = key(self.own).map(|value| (value, self.at));
        own.or_else(|| key(self.shared).map(|value| (value, "upstream")))
    }

    /// Sets what is not about TLS.
    pub(super) fn apply(self, upstream: proxy::Upstream) -> Result<proxy::Upstream, ConfigError> {
        self.check()?;
        let http2 = self.get(|keys| keys.http2).map_or(Http2::Off, |(http2, _)| http2);
        let max_idle = self.get(|keys| keys.max_idle).map_or(1024, |(max_idle, _)| max_idle.into());
        let idle_timeout = self.get(|keys| keys.idle_timeout);
        let idle_timeout = idle_timeout.map_or(Duration::from_secs(60), |(Time(time), _)| time);
        let upstream =
            upstream.http2(proxy::Http2::from(http2)).max_idle(max_idle).idle_timeout(idle_timeout);
        match self.get(|keys| keys.send_proxy) {
            Some((SendProxy::V1, _)) => upstream.send_proxy(proxy::ProxyProtocol::V1),
            Some((SendProxy::V2, _)) => upstream.send_proxy(proxy::ProxyProtocol::V2),
            Some((SendProxy::Off, _)) | None => Ok(upstream),
        }
    }

    pub(super) fn check(self) -> Result<(), ConfigError> {
        let Some((send_proxy @ (SendProxy::V1 | SendProxy::V2), at)) =
            self.get(|keys| keys.send_proxy)
        else {
            return Ok(());
        };
        let version = if send_proxy == SendProxy::V1 { "v1" } else { "v2" };
        match self.get(|keys| keys.http2) {
            Some((Http2::On | Http2::Auto, http2_at)) => Err(ConfigError::new(format!(
                "{} = \"{version}\": a connection belongs to one client then, and cannot be shared by HTTP/2; \
                 set {} = \"off\"",
                of(at, "send_proxy"),
                of(http2_at, "http2")
            ))),
            _ => Ok(()),
        }
    }
}

/// A key as it is written in the file, or on the command line.
pub(super) fn of(at: &str, key: &str) -> String {
    match at {
        "" => key.to_owned(),
        flag if flag.starts_with("--") => format!("{flag}: {key}"),
        section => format!("{section}.{key}"),
    }
}
