//! `[[affinity]]`: how a session is recognised.

use tower_sticky::{
    Key, KeyRing,
    affinity::{Conflict, Cookie, SameSite, Secure},
};

use super::{
    Error,
    duration::Humane,
    file::{self, Affinity, Format, Lifetime},
};

const NAME: &str = "SERVER_ID";

/// The types that the interface promises and that do not exist yet.
const LATER: [&str; 5] = ["header", "key", "client-ip", "envelope", "learned"];

/// The cookie, and whether its key was made just now.
pub(super) fn cookie(
    affinity: Option<Vec<Affinity>>,
    name: Option<String>,
) -> Result<(Cookie, bool), Error> {
    let Some(mut chain) = affinity else {
        let name = name.unwrap_or_else(|| NAME.to_owned());
        return Ok((Cookie::sealed(name, KeyRing::generate()?), true));
    };
    if chain.len() > 1 {
        return Err(super::is_not_built("a chain of several [[affinity]] sections"));
    }
    match chain.pop() {
        Some(affinity) => Ok((configured(affinity, name)?, false)),
        None => Err(Error::new(
            "affinity is an empty list; add one [[affinity]] section, or leave it out",
        )),
    }
}

fn configured(affinity: Affinity, name: Option<String>) -> Result<Cookie, Error> {
    match affinity.kind.as_str() {
        "cookie" => {}
        kind if LATER.contains(&kind) => {
            return Err(super::is_not_built(&format!("affinity type {kind:?}")));
        }
        kind => {
            return Err(Error::new(format!(
                "the affinity type {kind:?} is unknown; expected \"cookie\""
            )));
        }
    }
    for (key, value) in [
        ("header", &affinity.header),
        ("cookie", &affinity.cookie),
        ("query", &affinity.query),
        ("ipv4_prefix", &affinity.ipv4_prefix),
        ("ipv6_prefix", &affinity.ipv6_prefix),
        ("capacity", &affinity.capacity),
        ("store", &affinity.store),
    ] {
        if value.is_some() {
            return Err(Error::new(format!(
                "affinity has the key `{key}`, which does not belong to type \"cookie\"; remove it"
            )));
        }
    }
    let name = name.or(affinity.name).unwrap_or_else(|| NAME.to_owned());
    let mut cookie = match (affinity.format, affinity.keys) {
        (Format::Plain, None) => Cookie::plain(name),
        (Format::Plain, Some(_)) => {
            return Err(Error::new(
                "affinity has keys, but format = \"plain\" uses none; remove them, or use \
                 format = \"sealed\"",
            ));
        }
        (Format::Sealed, Some(keys)) => Cookie::sealed(name, ring(&keys)?),
        (Format::Sealed, None) => {
            return Err(Error::new(
                "affinity has format = \"sealed\" and no keys, so that no pin would outlive a \
                 restart; add keys = [\"env:STICKY_KEY\"], with a key as `openssl rand -base64 32` \
                 prints it in that variable",
            ));
        }
    };
    if let Some(Humane(timeout)) = affinity.idle_timeout {
        cookie = cookie.idle_timeout(timeout);
    }
    if let Some(Humane(timeout)) = affinity.absolute_timeout {
        cookie = cookie.absolute_timeout(timeout);
    }
    if affinity.lifetime == Lifetime::Permanent {
        cookie = cookie.permanent();
    }
    if let Some(path) = affinity.path {
        cookie = cookie.path(path);
    }
    if let Some(domain) = affinity.domain {
        cookie = cookie.domain(domain);
    }
    if let Some(same_site) = affinity.same_site {
        cookie = cookie.same_site(match same_site {
            file::SameSite::Lax => SameSite::Lax,
            file::SameSite::Strict => SameSite::Strict,
            file::SameSite::None => SameSite::None,
        });
    }
    if let Some(secure) = affinity.secure {
        cookie = cookie.secure(match secure {
            file::Secure::Auto => Secure::Auto,
            file::Secure::Always => Secure::Always,
            file::Secure::Never => Secure::Never,
        });
    }
    if let Some(conflict) = affinity.conflict {
        cookie = cookie.conflict(match conflict {
            file::Conflict::Replace => Conflict::Replace,
            file::Conflict::Preserve => Conflict::Preserve,
        });
    }
    Ok(cookie
        .http_only(affinity.http_only.unwrap_or(true))
        .partitioned(affinity.partitioned.unwrap_or(false))
        .forward(affinity.forward.unwrap_or(false)))
}

/// The first seals, all open. A variable may hold one key, or several separated by commas.
fn ring(keys: &[String]) -> Result<KeyRing, Error> {
    let mut all = Vec::new();
    for source in keys {
        if let Some(variable) = source.strip_prefix("env:") {
            // Read through the ring, whose errors name the variable and never the secret.
            KeyRing::from_env(variable)?;
            let value = std::env::var(variable).unwrap_or_default();
            for part in value.split(|c: char| c == ',' || c.is_whitespace()) {
                if !part.is_empty() {
                    all.push(Key::from_base64(part)?);
                }
            }
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
    Ok(KeyRing::new(all)?)
}
