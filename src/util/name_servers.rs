//! DNS resolvers with configured name servers.

use std::net::SocketAddr;
#[cfg(feature = "proxy")]
use std::time::Duration;

#[cfg(feature = "proxy")]
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::{
    ResolverBuilder, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};

use crate::error::ConfigError;

/// A builder of a resolver that queries these servers.
pub(crate) fn builder(
    servers: Vec<SocketAddr>,
) -> Result<ResolverBuilder<TokioRuntimeProvider>, ConfigError> {
    if servers.is_empty() {
        return Err(ConfigError::new("there is no name server; name at least one"));
    }
    let servers = servers.into_iter().map(name_server).collect();
    let config = ResolverConfig::from_name_servers(servers);
    Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
}

/// A resolver without a cache that queries these servers for IPv4 and IPv6 addresses.
#[cfg(feature = "proxy")]
pub(crate) fn uncached(servers: Vec<SocketAddr>) -> Result<TokioResolver, ConfigError> {
    let mut builder = builder(servers)?;
    let options = builder.options_mut();
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // A lost packet must not use up the connect timeout.
    options.timeout = Duration::from_millis(250);
    builder.build().map_err(|error| {
        ConfigError::new(format!(
            "the resolver cannot be made ({error}); use the system's, or another one"
        ))
    })
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}
