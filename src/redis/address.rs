//! Parses the address of a Redis server, of a cluster, or of sentinels that know the master.

use redis::{
    Client, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError, TlsMode,
    cluster::ClusterClient,
    sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType},
};

use super::target::RedisTarget;

/// The default port of a sentinel.
const SENTINEL_PORT: u16 = 26379;

/// Parses an address. The error says what is wrong with it, and does not quote it, because it may
/// contain a password.
pub(crate) fn parse(url: &str) -> Result<RedisTarget, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("it has no scheme".to_owned());
    };
    let tls = scheme.starts_with("rediss");
    if tls && !cfg!(feature = "redis-tls") {
        return Err("TLS needs the feature `redis-tls` of tower-sticky; enable it".to_owned());
    }
    let plain = if tls { "rediss" } else { "redis" };
    match scheme {
        "redis-cluster" | "rediss-cluster" => {
            let nodes =
                each_host(rest, |login, host, path| format!("{plain}://{login}{host}{path}"));
            let client = ClusterClient::new(nodes).map_err(|error| invalid(&error))?;
            Ok(RedisTarget::Cluster(Box::new(client)))
        }
        "redis-sentinel" | "rediss-sentinel" => sentinel(plain, rest),
        "redis" | "rediss" | "redis+unix" | "unix" => {
            let client = Client::open(url).map_err(|error| invalid(&error))?;
            Ok(RedisTarget::Single(Box::new(client)))
        }
        _ => Err("its scheme is unknown".to_owned()),
    }
}

/// Parses `[user:password@]host[:port],host[:port]/master[/db]`. The login is for the server, not for
/// the sentinels.
fn sentinel(scheme: &str, rest: &str) -> Result<RedisTarget, String> {
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (master, db) = path.split_once('/').unwrap_or((path, ""));
    if master.is_empty() {
        return Err("the name of the master is missing, which follows the sentinels: \
             redis-sentinel://host:26379,host:26379/mymaster"
            .to_owned());
    }
    let master = master.to_owned();
    // The sentinels know the server's address; only its login and database are given here.
    let login = hosts.rsplit_once('@').map_or(String::new(), |(login, _)| format!("{login}@"));
    let server = format!("{scheme}://{login}localhost/{db}");
    let server = server.into_connection_info().map_err(|error| invalid(&error))?;
    let settings: RedisConnectionInfo = server.redis_settings().clone();
    let mut node = SentinelNodeConnectionInfo::default().set_redis_connection_info(settings);
    if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
        node = node.set_tls_mode(TlsMode::Secure);
    }
    let sentinels = each_host(hosts, |_, host, _| {
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = if has_port { String::new() } else { format!(":{SENTINEL_PORT}") };
        format!("{scheme}://{host}{port}")
    });
    SentinelClient::build(sentinels, master, Some(node), SentinelServerType::Master)
        .map(|client| RedisTarget::Sentinel(Box::new(client)))
        .map_err(|error| invalid(&error))
}

/// Splits `[login@]host,host[/path]` and calls `make` with the login including its `@`, each host, and
/// the path.
fn each_host(rest: &str, make: impl Fn(&str, &str, &str) -> String) -> Vec<String> {
    let (hosts, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let (login, hosts) = hosts.rfind('@').map_or(("", hosts), |at| hosts.split_at(at + 1));
    hosts.split(',').map(|host| make(login, host.trim(), path)).collect()
}

fn invalid(error: &RedisError) -> String {
    format!("{:?}: {}", error.kind(), error.detail().unwrap_or("it is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(url: &str) -> &'static str {
        match parse(url) {
            Ok(RedisTarget::Single(_)) => "single",
            Ok(RedisTarget::Cluster(_)) => "cluster",
            Ok(RedisTarget::Sentinel(_)) => "sentinel",
            Err(_) => "none",
        }
    }

    #[test]
    fn all_kinds_of_addresses_are_parsed() {
        assert_eq!(kind("redis://localhost"), "single");
        assert_eq!(kind("redis://user:pass@[::1]:6379/3?protocol=resp3"), "single");
        assert_eq!(kind("unix:///run/redis.sock"), "single");
        assert_eq!(kind("redis-cluster://:pass@one:7000,two:7000, three"), "cluster");
        assert_eq!(kind("redis-sentinel://user:pass@one:26379,[::1]/mymaster/2"), "sentinel");
        let tls = cfg!(feature = "redis-tls");
        assert_eq!(kind("rediss://localhost"), if tls { "single" } else { "none" });
        assert_eq!(kind("rediss-cluster://one,two"), if tls { "cluster" } else { "none" });
        assert_eq!(kind("rediss-sentinel://one/m"), if tls { "sentinel" } else { "none" });
        for bad in
            ["localhost", "http://localhost", "redis://", "redis-sentinel://one", "redis://h/x"]
        {
            assert_eq!(kind(bad), "none", "{bad}");
        }
    }

    #[cfg(not(feature = "redis-tls"))]
    #[test]
    fn tls_without_the_feature_is_an_error_that_names_the_feature() {
        let error = parse("rediss://localhost").map(|_| ()).unwrap_err();
        assert_eq!(error, "TLS needs the feature `redis-tls` of tower-sticky; enable it");
    }

    #[test]
    fn errors_do_not_contain_the_password() {
        let urls = [
            "redis://user:hunter2@host:notaport",
            "redis-cluster://:hunter2@one,two:notaport",
            "redis-sentinel://:hunter2@one",
            "redis-sentinel://:hunter2@one/m/notadb",
            "nothing://:hunter2@one",
            ":hunter2@one",
        ];
        for url in urls {
            let error = parse(url).map(|_| ()).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
