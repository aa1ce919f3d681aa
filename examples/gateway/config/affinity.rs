//! `[[affinity]]`: how a session is recognised. Several sections are a chain.

use std::time::Duration;

use ipnet::IpNet;
use tower_sticky::{
    Key, KeyRing,
    affinity::{
        self, Affinity, Chain, ClientIp, Conflict, Cookie, Envelope, Header, Learned, SameSite,
        Secure,
    },
    store::{OnDown, RedisStore},
};

use super::{
    Error,
    duration::Humane,
    file::{self, Format, Lifetime},
};

const COOKIE: &str = "SERVER_ID";

/// What the sections know of the rest of the file.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The cookie's name on the command line, which overrides the file.
    pub(super) cookie_name: Option<String>,
    pub(super) trusted_proxies: &'a [IpNet],
    pub(super) balance_factor: Option<f64>,
}

/// The affinities in order, and whether a key was made just now.
pub(super) fn chain(
    sections: Option<Vec<file::Affinity>>,
    around: &Surroundings<'_>,
) -> Result<(Chain, bool), Error> {
    let is_hash = |section: &file::Affinity| matches!(&*section.kind, "key" | "client-ip");
    let hashes = sections.iter().flatten().any(is_hash);
    if around.balance_factor.is_some() && !hashes {
        return Err(Error::new(
            "strategy.balance_factor bounds the load of the hash modes, and there is none; remove \
             it, or add an [[affinity]] of type \"key\" or \"client-ip\"",
        ));
    }
    let Some(sections) = sections else {
        let name = around.cookie_name.clone().unwrap_or_else(|| COOKIE.to_owned());
        return Ok((Chain::of(Cookie::sealed(name, KeyRing::generate()?)), true));
    };
    let mut chain: Option<Chain> = None;
    for section in sections {
        let affinity = affinity(&section, around)?;
        chain = Some(match chain {
            None => Chain::of(affinity),
            Some(chain) => chain.or(affinity),
        });
    }
    chain.map(|chain| (chain, false)).ok_or_else(|| {
        Error::new("affinity is an empty list; add one [[affinity]] section, or leave it out")
    })
}

/// The library's default.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Warnings of what works, and is hardly meant.
pub(super) fn warnings(sections: Option<&[file::Affinity]>) -> Vec<String> {
    let sections = sections.unwrap_or_default();
    let skewed = sections.iter().filter_map(|section| {
        let (Humane(idle), Humane(skew)) = (section.idle_timeout?, section.clock_skew?);
        // The default is no statement about anybody's clocks.
        (idle <= skew && skew != CLOCK_SKEW).then(|| {
            format!(
                "affinity of type {:?} has idle_timeout = {idle:?}, which is not longer than clock_skew = \
                 {skew:?}: a session that goes from a gateway to one whose clock is so far ahead has idled \
                 out there at once; make idle_timeout longer than the clocks may differ",
                section.kind
            )
        })
    });
    unreachable(sections).into_iter().chain(skewed).collect()
}

/// A warning, where a section that is always there leaves nothing to decide for those behind it.
fn unreachable(sections: &[file::Affinity]) -> Option<String> {
    let first = sections.iter().position(|section| section.kind == "client-ip")?;
    let behind = sections.get(first + 1)?;
    Some(format!(
        "affinity number {} of type \"client-ip\" is always there, so that those behind it, from number \
         {} of type {:?} on, decide only while the backend of the address is out; put \"client-ip\" last",
        first + 1,
        first + 2,
        behind.kind
    ))
}

fn affinity(
    section: &file::Affinity,
    around: &Surroundings<'_>,
) -> Result<Box<dyn Affinity>, Error> {
    let allowed: &[&str] = match section.kind.as_str() {
        "cookie" => &[
            "name",
            "format",
            "keys",
            "lifetime",
            "idle_timeout",
            "absolute_timeout",
            "clock_skew",
            "streams_keep_alive",
            "path",
            "domain",
            "same_site",
            "secure",
            "http_only",
            "partitioned",
            "forward",
            "conflict",
        ],
        "header" => &[
            "name",
            "format",
            "keys",
            "idle_timeout",
            "absolute_timeout",
            "clock_skew",
            "streams_keep_alive",
            "forward",
        ],
        "key" => &["header", "cookie", "query"],
        "client-ip" => &["ipv4_prefix", "ipv6_prefix"],
        "envelope" => &[
            "cookie",
            "header",
            "keys",
            "idle_timeout",
            "absolute_timeout",
            "clock_skew",
            "streams_keep_alive",
        ],
        "learned" => &[
            "cookie",
            "header",
            "keys",
            "idle_timeout",
            "absolute_timeout",
            "capacity",
            "store",
            "store_timeout",
            "store_prefix",
            "on_store_down",
        ],
        kind => {
            return Err(Error::new(format!(
                "the affinity type {kind:?} is unknown; expected \"cookie\", \"header\", \"key\", \
                 \"client-ip\", \"envelope\" or \"learned\""
            )));
        }
    };
    if let Some(key) = section.given().into_iter().find(|key| !allowed.contains(key)) {
        return Err(Error::new(format!(
            "affinity has the key `{key}`, which does not belong to type {:?}; remove it",
            section.kind
        )));
    }
    Ok(match section.kind.as_str() {
        "cookie" => Box::new(cookie(section, around)?),
        "header" => Box::new(header(section)?),
        "key" => Box::new(key(section, around)?),
        "envelope" => Box::new(envelope(section)?),
        "learned" => Box::new(learned(section)?),
        _ => Box::new(client_ip(section, around)),
    })
}

fn cookie(section: &file::Affinity, around: &Surroundings<'_>) -> Result<Cookie, Error> {
    let name = around.cookie_name.clone().or_else(|| section.name.clone());
    let name = name.unwrap_or_else(|| COOKIE.to_owned());
    let mut cookie = match keys(section)? {
        Some(keys) => Cookie::sealed(name, keys),
        None => Cookie::plain(name),
    };
    if let Some(Humane(timeout)) = section.idle_timeout {
        cookie = cookie.idle_timeout(timeout);
    }
    if let Some(Humane(timeout)) = section.absolute_timeout {
        cookie = cookie.absolute_timeout(timeout);
    }
    if let Some(Humane(skew)) = section.clock_skew {
        cookie = cookie.clock_skew(skew);
    }
    if let Some(keep_alive) = section.streams_keep_alive {
        cookie = cookie.streams_keep_alive(keep_alive);
    }
    if section.lifetime == Some(Lifetime::Permanent) {
        cookie = cookie.permanent();
    }
    if let Some(path) = &section.path {
        cookie = cookie.path(path);
    }
    if let Some(domain) = &section.domain {
        cookie = cookie.domain(domain);
    }
    if let Some(same_site) = section.same_site {
        cookie = cookie.same_site(match same_site {
            file::SameSite::Lax => SameSite::Lax,
            file::SameSite::Strict => SameSite::Strict,
            file::SameSite::None => SameSite::None,
        });
    }
    if let Some(secure) = section.secure {
        cookie = cookie.secure(match secure {
            file::Secure::Auto => Secure::Auto,
            file::Secure::Always => Secure::Always,
            file::Secure::Never => Secure::Never,
        });
    }
    if let Some(conflict) = section.conflict {
        cookie = cookie.conflict(match conflict {
            file::Conflict::Replace => Conflict::Replace,
            file::Conflict::Preserve => Conflict::Preserve,
        });
    }
    Ok(cookie
        .http_only(section.http_only.unwrap_or(true))
        .partitioned(section.partitioned.unwrap_or(false))
        .forward(section.forward.unwrap_or(false)))
}

fn header(section: &file::Affinity) -> Result<Header, Error> {
    let Some(name) = &section.name else {
        return Err(Error::new(
            "affinity of type \"header\" has no name; add the header that carries the token, for \
             example name = \"x-sticky\"",
        ));
    };
    let mut header = match keys(section)? {
        Some(keys) => Header::sealed(name, keys),
        None => Header::plain(name),
    };
    if let Some(Humane(timeout)) = section.idle_timeout {
        header = header.idle_timeout(timeout);
    }
    if let Some(Humane(timeout)) = section.absolute_timeout {
        header = header.absolute_timeout(timeout);
    }
    if let Some(Humane(skew)) = section.clock_skew {
        header = header.clock_skew(skew);
    }
    if let Some(keep_alive) = section.streams_keep_alive {
        header = header.streams_keep_alive(keep_alive);
    }
    Ok(header.forward(section.forward.unwrap_or(false)))
}

fn key(section: &file::Affinity, around: &Surroundings<'_>) -> Result<affinity::Key, Error> {
    let key = match (&section.header, &section.cookie, &section.query) {
        (Some(header), None, None) => affinity::Key::header(header),
        (None, Some(cookie), None) => affinity::Key::cookie(cookie),
        (None, None, Some(query)) => affinity::Key::query(query),
        _ => {
            return Err(Error::new(
                "affinity of type \"key\" needs exactly one of header, cookie and query, for \
                 example header = \"x-user-id\"",
            ));
        }
    };
    Ok(match around.balance_factor {
        Some(factor) => key.balance_factor(factor),
        None => key,
    })
}

fn client_ip(section: &file::Affinity, around: &Surroundings<'_>) -> ClientIp {
    let mut client_ip = ClientIp::new().trust(around.trusted_proxies.iter().copied());
    if let Some(bits) = section.ipv4_prefix {
        client_ip = client_ip.ipv4_prefix(bits);
    }
    if let Some(bits) = section.ipv6_prefix {
        client_ip = client_ip.ipv6_prefix(bits);
    }
    match around.balance_factor {
        Some(factor) => client_ip.balance_factor(factor),
        None => client_ip,
    }
}

fn envelope(section: &file::Affinity) -> Result<Envelope, Error> {
    let Some(keys) = keys(section)? else {
        return Err(Error::new("affinity of type \"envelope\" is always sealed; add keys"));
    };
    let mut envelope = match carrier(section)? {
        Carrier::Cookie(name) => Envelope::cookie(name, keys),
        Carrier::Header(name) => Envelope::header(name, keys),
    };
    if let Some(Humane(timeout)) = section.idle_timeout {
        envelope = envelope.idle_timeout(timeout);
    }
    if let Some(Humane(timeout)) = section.absolute_timeout {
        envelope = envelope.absolute_timeout(timeout);
    }
    if let Some(Humane(skew)) = section.clock_skew {
        envelope = envelope.clock_skew(skew);
    }
    if let Some(keep_alive) = section.streams_keep_alive {
        envelope = envelope.streams_keep_alive(keep_alive);
    }
    Ok(envelope)
}

fn learned(section: &file::Affinity) -> Result<Learned, Error> {
    let store = pin_store(section)?;
    let mut learned = match carrier(section)? {
        Carrier::Cookie(name) => Learned::cookie(name),
        Carrier::Header(name) => Learned::header(name),
    };
    if let Some(Humane(timeout)) = section.idle_timeout {
        learned = learned.idle_timeout(timeout);
    }
    if let Some(Humane(timeout)) = section.absolute_timeout {
        learned = learned.absolute_timeout(timeout);
    }
    if let Some(capacity) = section.capacity {
        learned = learned.capacity(capacity);
    }
    if let Some(keys) = &section.keys {
        // There is no token to seal: the first key is the secret of the hash of the ids.
        let first = all_keys(keys)?.into_iter().next();
        let first = first.ok_or_else(|| {
            Error::new("affinity has an empty list of keys; add one, or leave keys out")
        })?;
        learned = learned.secret(first);
    }
    Ok(match store {
        Some(store) => learned.store(store),
        None => learned,
    })
}

/// Where learned pins are kept, if not in this process.
fn pin_store(section: &file::Affinity) -> Result<Option<RedisStore>, Error> {
    let from_env;
    let store = match section.store.as_deref() {
        Some(store) => match store.strip_prefix("env:") {
            // The address may have a password in it.
            Some(variable) => {
                from_env = std::env::var(variable).map_err(|_| {
                    Error::new(format!(
                        "affinity has store = \"env:{variable}\", but that variable is not set; set \
                         it to an address such as redis://host:6379"
                    ))
                })?;
                Some(from_env.as_str())
            }
            None => Some(store),
        },
        None => None,
    };
    let url = match store {
        None | Some("memory") => {
            let given = [
                ("store_timeout", section.store_timeout.is_some()),
                ("store_prefix", section.store_prefix.is_some()),
                ("on_store_down", section.on_store_down.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((key, _)) => Err(Error::new(format!(
                    "affinity has {key}, which is for store = \"redis://…\"; remove it"
                ))),
            };
        }
        Some(url) if url.starts_with("redis") || url.starts_with("unix:") => url,
        // It may have a password in it, so it is not quoted.
        Some(_) => {
            return Err(Error::new(
                "affinity has a store that is unknown; expected \"memory\", or the address of a Redis \
                 such as \"redis://host:6379\"",
            ));
        }
    };
    if section.keys.is_none() {
        return Err(Error::new(
            "affinity has a store on Redis and no keys, so that the gateways that share it would not \
             find each other's sessions; add keys = [\"env:STICKY_KEY\"], the same on all of them",
        ));
    }
    let mut store = RedisStore::builder(url);
    if let Some(prefix) = &section.store_prefix {
        store = store.prefix(prefix);
    }
    if let Some(Humane(budget)) = section.store_timeout {
        store = store.time_budget(budget);
    }
    if let Some(capacity) = section.capacity {
        store = store.local_capacity(capacity);
    }
    store = store.on_down(match section.on_store_down.unwrap_or_default() {
        file::OnStoreDown::Open => OnDown::Open,
        file::OnStoreDown::Reject => OnDown::Reject,
    });
    Ok(Some(store.build()?))
}

/// Where the application's own id is.
enum Carrier<'a> {
    Cookie(&'a str),
    Header(&'a str),
}

fn carrier(section: &file::Affinity) -> Result<Carrier<'_>, Error> {
    match (&section.cookie, &section.header) {
        (Some(cookie), None) => Ok(Carrier::Cookie(cookie)),
        (None, Some(header)) => Ok(Carrier::Header(header)),
        _ => Err(Error::new(format!(
            "affinity of type {:?} needs one of cookie and header, which name where the \
             application's own session id is, for example cookie = \"JSESSIONID\"",
            section.kind
        ))),
    }
}

/// The keys of a token, or none for a plain one.
fn keys(section: &file::Affinity) -> Result<Option<KeyRing>, Error> {
    match (section.format.unwrap_or_default(), &section.keys) {
        (Format::Plain, None) => Ok(None),
        (Format::Plain, Some(_)) => Err(Error::new(
            "affinity has keys, but format = \"plain\" uses none; remove them, or use \
             format = \"sealed\"",
        )),
        (Format::Sealed, Some(keys)) => Ok(Some(ring(keys)?)),
        (Format::Sealed, None) => Err(Error::new(
            "affinity has format = \"sealed\" and no keys, so that no pin would outlive a restart; \
             add keys = [\"env:STICKY_KEY\"], with a key as `openssl rand -base64 32` prints it in \
             that variable",
        )),
    }
}

/// The first seals, all open. A variable may hold one key, or several separated by commas.
fn ring(keys: &[String]) -> Result<KeyRing, Error> {
    Ok(KeyRing::new(all_keys(keys)?)?)
}

fn all_keys(keys: &[String]) -> Result<Vec<Key>, Error> {
    let mut all = Vec::new();
    for source in keys {
        if let Some(variable) = source.strip_prefix("env:") {
            all.extend(Key::all_from_env(variable)?);
        } else if let Some(text) = source.strip_prefix("base64:") {
            all.push(Key::from_base64(text)?);
        } else {
            // What it says instead may be a secret, so it is not quoted.
            return Err(Error::new(
                "affinity has a key that is neither \"env:NAME\" nor \"base64:…\"; name the \
                 environment variable that holds it, or write it in base64",
            ));
        }
    }
    Ok(all)
}
