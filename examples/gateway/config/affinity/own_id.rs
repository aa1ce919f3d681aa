//! Affinities by an id of the application: learned ids, and ids that name their backend.

use tower_sticky::affinity::{Learned, Route};

use super::{
    checked::Checked,
    keys, section, store,
    stores::{InUse, Stores},
};
use crate::config::{
    Error,
    words::{Format, RoutePosition},
};

/// An id of an application, for messages.
pub(super) const EXAMPLE: &str = "cookie = \"JSESSIONID\"";

/// How many learned sessions are kept in memory by default.
const CAPACITY: usize = 1_000_000;

pub(super) fn learned(
    at: &str,
    section: &section::Learned,
    stores: &Stores,
) -> Result<Learned, Error> {
    let store = store::pin_store(at, section)?;
    let given = [
        ("cookie", section.cookie.clone()),
        ("header", section.header.clone()),
        ("query", section.query.clone()),
        ("location", section.location.clone()),
    ];
    let (source, name) = only(at, "learned", given, EXAMPLE)?;
    let carrier = format!("{source} {name} {:?}", section.keys);
    let shown = format!("{source} {name}");
    let learned = match source {
        "cookie" => Learned::cookie(name),
        "header" => Learned::header(name),
        "query" => Learned::query(name),
        _ => Learned::location(name),
    };
    let mut learned = Checked::new(at, format!("{at}.{source}"), learned)?
        .set("idle_timeout", section.idle_timeout, Learned::idle_timeout)?
        .set("absolute_timeout", section.absolute_timeout, Learned::absolute_timeout)?
        .set("capacity", section.capacity, Learned::capacity)?
        .set("end_on_delete", section.end_on_delete, Learned::end_on_delete)?
        .done();
    if let Some(keys) = &section.keys {
        // There is no token to seal: the first key is the secret of the hash of the ids.
        let first = keys::all(at, keys)?.into_iter().next();
        let first = first.ok_or_else(|| {
            Error::new(format!("{at}.keys is an empty list; add a key, or leave it out"))
        })?;
        learned = learned.secret(first);
    }
    if let Some(store) = store {
        stores.set_in_use(shown, InUse::Redis(store.clone()));
        return Ok(learned.store(store));
    }
    let (memory, secret) = stores.get(&carrier, section.capacity.map_or(CAPACITY, Into::into))?;
    stores.set_in_use(shown, InUse::Memory(memory.clone()));
    Ok(match section.keys {
        Some(_) => learned.store(memory),
        None => learned.store(memory).secret(secret),
    })
}

pub(super) fn route(at: &str, section: section::Route) -> Result<Route, Error> {
    let given = [
        ("cookie", section.cookie),
        ("header", section.header),
        ("query", section.query),
        ("path", section.path),
        ("path_parameter", section.path_parameter),
    ];
    let (source, name) = only(at, "route", given, EXAMPLE)?;
    let route = match source {
        "cookie" => Route::cookie(name),
        "header" => Route::header(name),
        "query" => Route::query(name),
        "path" => Route::path(name),
        _ => Route::path_parameter(name),
    };
    if section.separator.is_none() && section.position.is_some() {
        return Err(Error::new(format!(
            "{at}.position: there is no separator, so that the whole id is the route; add separator = \".\", \
             or leave position out"
        )));
    }
    let position = section.position.unwrap_or_default();
    let route = Checked::new(at, format!("{at}.{source}"), route)?
        .set("separator", section.separator, |route: Route, separator: char| match position {
            RoutePosition::Suffix => route.after(separator),
            RoutePosition::Prefix => route.before(separator),
        })?
        .done();
    let format = section.format.unwrap_or(Format::Plain);
    Ok(match keys::of_format(at, format, section.keys.as_deref())? {
        Some(keys) => route.sealed(keys),
        None => route,
    })
}

/// The one key that is given of those that name where an id is.
pub(super) fn only<const N: usize>(
    at: &str,
    kind: &str,
    given: [(&'static str, Option<String>); N],
    example: &str,
) -> Result<(&'static str, String), Error> {
    let keys = given.each_ref().map(|(key, _)| *key);
    let mut found = given.into_iter().filter_map(|(key, value)| Some((key, value?)));
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        _ => {
            let (last, others) = keys.split_last().unwrap_or((&"", &[]));
            let others = others.join(", ");
            Err(Error::new(format!(
                "{at}: type {kind:?} needs exactly one of {others} and {last}, which names where the id of \
                 the session is, for example {example}"
            )))
        }
    }
}
