//! Where learned pins are kept, if not in this process.

use tower_sticky::store::{OnDown, RedisStore};

use super::section::Learned;
use crate::config::{Error, units::Time};

/// The store on Redis that the section `at` names, if any.
pub(super) fn pin_store(at: &str, section: &Learned) -> Result<Option<RedisStore>, Error> {
    let from_env;
    let store = match section.store.as_deref() {
        // The address may contain a password.
        Some(store) => match store.strip_prefix("env:") {
            Some(variable) => {
                from_env = std::env::var(variable).map_err(|_| {
                    Error::new(format!(
                        "{at}.store = \"env:{variable}\": this variable is not set; set it to an \
                         address such as redis://host:6379"
                    ))
                })?;
                Some(from_env.as_str())
            }
            None => Some(store),
        },
        None => None,
    };
    match store {
        None | Some("memory") => without_redis(at, section),
        Some(url) if url.starts_with("redis") || url.starts_with("unix:") => {
            on_redis(at, section, url).map(Some)
        }
        // The value may contain a password, so it is not quoted.
        Some(_) => Err(Error::new(format!(
            "{at}.store: an unknown kind of store; expected \"memory\", or the address of a Redis such \
             as \"redis://host:6379\""
        ))),
    }
}

fn without_redis(at: &str, section: &Learned) -> Result<Option<RedisStore>, Error> {
    let given = [
        ("store_timeout", section.store_timeout.is_some()),
        ("store_prefix", section.store_prefix.is_some()),
        ("on_store_down", section.on_store_down.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(None),
        Some((key, _)) => Err(Error::new(format!(
            "{at}.{key}: only for store = \"redis://…\"; remove it, or add the store"
        ))),
    }
}

fn on_redis(at: &str, section: &Learned, url: &str) -> Result<RedisStore, Error> {
    if section.keys.is_none() {
        return Err(Error::new(format!(
            "{at}.store is on Redis and there are no keys, so that the gateways that share it would not \
             find each other's sessions; add keys = [\"env:STICKY_KEY\"], the same on all of them"
        )));
    }
    let mut store = RedisStore::builder(url);
    match section.store_prefix.as_deref() {
        Some("") => {
            return Err(Error::new(format!(
                "{at}.store_prefix = \"\": the keys would mix with others'; expected a prefix such as \
                 \"sticky:\", or leave it out"
            )));
        }
        Some(prefix) => store = store.prefix(prefix),
        None => {}
    }
    if let Some(Time(budget)) = section.store_timeout {
        store = store.time_budget(budget);
    }
    if let Some(capacity) = section.capacity {
        store = store.local_capacity(capacity.into());
    }
    let on_down = section.on_store_down.map_or(OnDown::Open, Into::into);
    store.on_down(on_down).build().map_err(|error| Error::of(&format!("{at}.store"), error))
}
