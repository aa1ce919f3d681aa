//! From the sections to a chain of affinities.

use ipnet::IpNet;
use tower_sticky::affinity::{Affinity, Chain, ClientIp, Cookie, Envelope, Header, Key};

use super::{
    checked::{Checked, check},
    keys, own_id,
    section::{self, Section},
    stores::Stores,
};
use crate::config::{Error, words::Lifetime};

const COOKIE: &str = "SERVER_ID";

/// What the sections need of the rest of the configuration.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The cookie's name on the command line, which overrides the file.
    pub(crate) cookie_name: Option<String>,
    pub(crate) trusted_proxies: &'a [IpNet],
    pub(crate) balance_factor: Option<f64>,
    /// Where learned ids are kept in memory.
    pub(crate) stores: &'a Stores,
}

/// The affinities in order, and whether they are sealed under a key that was generated for this process.
pub(crate) fn chain(
    sections: Option<Vec<Section>>,
    context: &Context<'_>,
) -> Result<(Chain, bool), Error> {
    if let Some(factor) = context.balance_factor
        && !sections.iter().flatten().any(Section::is_hash)
    {
        return Err(Error::new(format!(
            "strategy.balance_factor = {factor:?}: it bounds the load of the hash modes, and there is \
             none; remove it, or add an [[affinity]] of type \"key\" or \"client-ip\""
        )));
    }
    let Some(sections) = sections else {
        let name = context.cookie_name.as_deref().unwrap_or(COOKIE);
        let cookie = Cookie::sealed(name, context.stores.generated_keys()?);
        return Ok((Chain::of(Checked::new("affinity", "--cookie", cookie)?.done()), true));
    };
    let mut chain: Option<Chain> = None;
    for (position, section) in sections.into_iter().enumerate() {
        let affinity = affinity(&format!("affinity[{position}]"), section, context)?;
        chain = Some(match chain {
            None => Chain::of(affinity),
            Some(chain) => chain.or(affinity),
        });
    }
    let chain = chain.ok_or_else(|| {
        Error::new("affinity is an empty list; add one [[affinity]] section, or leave it out")
    })?;
    check(chain.clone()).map_err(|error| Error::of("affinity", error))?;
    Ok((chain, false))
}

fn affinity(at: &str, section: Section, context: &Context<'_>) -> Result<Box<dyn Affinity>, Error> {
    Ok(match section {
        Section::Cookie(section) => Box::new(cookie(at, section, context)?),
        Section::Header(section) => Box::new(header(at, section)?),
        Section::Key(section) => Box::new(key(at, section, context)?),
        Section::ClientIp(section) => Box::new(client_ip(at, &section, context)?),
        Section::Envelope(section) => Box::new(envelope(at, section)?),
        Section::Learned(section) => Box::new(own_id::learned(at, &section, context.stores)?),
        Section::Route(section) => Box::new(own_id::route(at, section)?),
    })
}

/// Sets the keys that every affinity with tokens of its own has.
macro_rules! set_lifetime {
    ($affinity:expr, $section:ident, $kind:ident) => {
        $affinity
            .set("idle_timeout", $section.idle_timeout, $kind::idle_timeout)?
            .set("absolute_timeout", $section.absolute_timeout, $kind::absolute_timeout)?
            .set("clock_skew", $section.clock_skew, $kind::clock_skew)?
            .set("streams_keep_alive", $section.streams_keep_alive, $kind::streams_keep_alive)?
    };
}

fn cookie(at: &str, section: section::Cookie, context: &Context<'_>) -> Result<Cookie, Error> {
    let (key, name) = match &context.cookie_name {
        Some(name) => ("--cookie".to_owned(), name.clone()),
        None => (format!("{at}.name"), section.name.unwrap_or_else(|| COOKIE.to_owned())),
    };
    let mut cookie = match keys::of_format(at, section.format, section.keys.as_deref())? {
        Some(keys) => Cookie::sealed(name, keys),
        None => Cookie::plain(name),
    };
    // The prefixes of a name, such as `__Host-`, are checked against it.
    if let Some(secure) = section.secure {
        cookie = cookie.secure(secure.into());
    }
    let cookie = set_lifetime!(Checked::new(at, key, cookie)?, section, Cookie);
    let cookie = cookie
        .set("lifetime", section.lifetime, |cookie, lifetime: Lifetime| match lifetime {
            Lifetime::Session => cookie,
            Lifetime::Permanent => cookie.permanent(),
        })?
        .set("expires", section.expires, Cookie::expires)?
        .set::<String>("path", section.path, Cookie::path)?
        .set::<String>("domain", section.domain, Cookie::domain)?
        .set("same_site", section.same_site, Cookie::same_site)?
        .set("http_only", section.http_only, Cookie::http_only)?
        .set("partitioned", section.partitioned, Cookie::partitioned)?
        .set("forward", section.forward, Cookie::forward)?
        .set("conflict", section.conflict, Cookie::conflict)?;
    Ok(cookie.done())
}

fn header(at: &str, section: section::Header) -> Result<Header, Error> {
    let Some(name) = section.name else {
        return Err(Error::new(format!(
            "{at}.name: missing; expected the header that carries the token, for example name = \
             \"x-sticky\""
        )));
    };
    let header = match keys::of_format(at, section.format, section.keys.as_deref())? {
        Some(keys) => Header::sealed(name, keys),
        None => Header::plain(name),
    };
    let header = set_lifetime!(Checked::new(at, format!("{at}.name"), header)?, section, Header);
    Ok(header.set("forward", section.forward, Header::forward)?.done())
}

fn key(at: &str, section: section::Key, context: &Context<'_>) -> Result<Key, Error> {
    let given = [("header", section.header), ("cookie", section.cookie), ("query", section.query)];
    let (source, name) = own_id::only(at, "key", given, "header = \"x-user-id\"")?;
    let key = match source {
        "header" => Key::header(name),
        "cookie" => Key::cookie(name),
        _ => Key::query(name),
    };
    let key = Checked::new(at, format!("{at}.{source}"), key)?.done();
    Checked::from("strategy", key)
        .set("balance_factor", context.balance_factor, Key::balance_factor)
        .map(Checked::done)
}

fn client_ip(
    at: &str,
    section: &section::ClientIp,
    context: &Context<'_>,
) -> Result<ClientIp, Error> {
    let client_ip = ClientIp::new().trust(context.trusted_proxies.iter().copied());
    let client_ip = Checked::from(at, client_ip)
        .set("ipv4_prefix", section.ipv4_prefix, ClientIp::ipv4_prefix)?
        .set("ipv6_prefix", section.ipv6_prefix, ClientIp::ipv6_prefix)?
        .done();
    Checked::from("strategy", client_ip)
        .set("balance_factor", context.balance_factor, ClientIp::balance_factor)
        .map(Checked::done)
}

fn envelope(at: &str, section: section::Envelope) -> Result<Envelope, Error> {
    let Some(keys) = section.keys else {
        return Err(Error::new(format!(
            "{at}.keys: missing, and type \"envelope\" is always sealed; add keys = [\"env:STICKY_KEY\"]"
        )));
    };
    let keys = keys::ring(at, &keys)?;
    let given = [("cookie", section.cookie), ("header", section.header)];
    let (source, name) = own_id::only(at, "envelope", given, own_id::EXAMPLE)?;
    let envelope = match source {
        "cookie" => Envelope::cookie(name, keys),
        _ => Envelope::header(name, keys),
    };
    let key = format!("{at}.{source}");
    let envelope = set_lifetime!(Checked::new(at, key, envelope)?, section, Envelope);
    Ok(envelope.set::<String>("query", section.query, Envelope::query)?.done())
}
