//! `ServerTls`: the configuration of TLS of a listener.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig, crypto::ring::Ticketer, server::NoServerSessionStorage,
    server::WebPkiClientVerifier,
};

use super::{
    certificate::Pair,
    client_ca::ClientCa,
    resolver::Resolver,
    settings::{ClientAuth, Settings},
};
use crate::{error::ConfigError, tls::provider};

/// TLS 1.2 and 1.3 from clients, for a [`Listener`](super::super::Listener). Clones share their certificates.
///
/// # Example
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_sticky::serve::{Listener, ServerTls};
///
/// let tls = ServerTls::builder()
///     .certificate_files("shop.pem", "shop.key")?
///     .certificate_files("admin.pem", "admin.key")?
///     .build()?;
/// let listener = Listener::bind("0.0.0.0:8443").await?.tls(tls);
/// # Ok(())
/// # }
/// ```
///
/// # No early data
///
/// Early data (0-RTT; RFC 8446, section 8) is not accepted: whoever has recorded it can send it again, so that
/// a request would be served twice. No server can rule that out by itself, least of all one of several gateways.
#[derive(Clone)]
pub struct ServerTls {
    pub(super) inner: Arc<Inner>,
}

/// What was read last.
#[derive(Debug)]
pub(super) struct State {
    pub(super) pairs: Vec<Pair>,
    pub(super) client_ca: Option<ClientCa>,
}

pub(super) struct Inner {
    pub(super) settings: Settings,
    config: ArcSwap<ServerConfig>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) state: Mutex<State>,
}

impl ServerTls {
    pub(super) fn new(
        pairs: Vec<Pair>,
        client_ca: Option<ClientCa>,
        settings: Settings,
    ) -> Result<Self, ConfigError> {
        let resolver = Resolver::new(pairs.iter().map(Pair::loaded), settings.strict_sni);
        let resolver = Arc::new(resolver);
        let config = configuration(&settings, &resolver, client_ca.as_ref())?;
        let state = Mutex::new(State { pairs, client_ca });
        let config = ArcSwap::new(config);
        Ok(Self { inner: Arc::new(Inner { settings, config, resolver, state }) })
    }

    /// The configuration of a new connection.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.inner.config.load_full()
    }
}

impl Inner {
    /// Accepts clients of other authorities from now on. All sessions are forgotten: a client of the old
    /// authorities could resume its session otherwise.
    pub(super) fn replace_client_ca(&self, client_ca: &ClientCa) -> Result<(), ConfigError> {
        let config = configuration(&self.settings, &self.resolver, Some(client_ca))?;
        self.config.store(config);
        Ok(())
    }
}

fn configuration(
    settings: &Settings,
    resolver: &Arc<Resolver>,
    client_ca: Option<&ClientCa>,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let wrong =
        |error: &dyn fmt::Display| ConfigError::new(format!("TLS cannot be set up: {error}"));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(settings.min_version.and_later())
        .map_err(|error| wrong(&error))?;
    let builder = match (settings.client_auth, client_ca) {
        (ClientAuth::Off, _) | (_, None) => builder.with_no_client_auth(),
        (auth, Some(client_ca)) => {
            let roots = client_ca.roots.clone();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match auth {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                _ => verifier,
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(&error))?)
        }
    };
    let mut config = builder.with_cert_resolver(resolver.clone());
    config.alpn_protocols.clone_from(&settings.alpn);
    // No early data: what is recorded could be sent again.
    config.max_early_data_size = 0;
    if settings.tickets {
        config.ticketer = Ticketer::new().map_err(|error| wrong(&error))?;
    } else {
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Arc::new(config))
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}
