//! Hashing of keys to backends, and the options of the affinities that do so.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwapOption;

use crate::{
    error::ConfigError,
    hash::{BoundedLoad, KeyHasher, Maglev, Ranking, Slots},
    pool::BackendState,
    token::Key,
    util::lock,
};

/// The size of a [Maglev](https://research.google/pubs/pub44824/) lookup table (Eisenbud et al. 2016).
/// A lookup takes constant time for any number of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Table {
    /// 65,537 slots (256 KiB), for up to a thousand backends.
    Small,
    /// 655,373 slots (2.5 MiB), for thousands.
    Large,
}

/// The options of the affinities that route by a hash.
#[derive(Debug, Clone, Default)]
pub(super) struct HashOptions {
    pub(super) secret: Option<Key>,
    pub(super) unkeyed: bool,
    pub(super) table: Option<Table>,
    pub(super) balance_factor: Option<f64>,
}

impl HashOptions {
    /// Checks the options.
    pub(super) fn bind(&self) -> Result<Hashing, ConfigError> {
        if self.unkeyed && self.secret.is_some() {
            return Err(ConfigError::new(
                "a key has a secret, and is hashed without one; choose one of both",
            ));
        }
        let hasher = match &self.secret {
            Some(secret) => KeyHasher::sip(secret.hash_secret()),
            None if self.unkeyed => KeyHasher::xxh3(),
            None => KeyHasher::default(),
        };
        let balance = match self.balance_factor {
            None => None,
            Some(factor) if (1.0..=1000.0).contains(&factor) => {
                Some(BoundedLoad::new((factor * 100.0).round() as u32))
            }
            Some(factor) => {
                return Err(ConfigError::new(format!(
                    "the balance factor is {factor}; use 1.0 to 1000, for example 1.25"
                )));
            }
        };
        let table = self.table.map(|table| match table {
            Table::Small => Slots::Small,
            Table::Large => Slots::Large,
        });
        let built = ArcSwapOption::empty();
        Ok(Hashing { hasher, table, built, building: Mutex::new(()), balance })
    }
}

/// The setters of a builder whose field `hashing` is [`HashOptions`].
macro_rules! hash_setters {
    ($(#[$secret:meta])* secret, $(#[$balance:meta])* balance_factor, $(#[$table:meta])* maglev,) => {
        $(#[$secret])*
        #[must_use]
        pub fn secret(mut self, secret: crate::token::Key) -> Self {
            self.hashing.secret = Some(secret);
            self
        }

        $(#[$balance])*
        #[must_use]
        pub fn balance_factor(mut self, factor: f64) -> Self {
            self.hashing.balance_factor = Some(factor);
            self
        }

        $(#[$table])*
        #[must_use]
        pub fn maglev(mut self, table: crate::affinity::Table) -> Self {
            self.hashing.table = Some(table);
            self
        }
    };
}

pub(super) use hash_setters;

/// Hashes keys and ranks backends for them.
pub struct Hashing {
    hasher: KeyHasher,
    table: Option<Slots>,
    /// The table for the current members.
    built: ArcSwapOption<Maglev>,
    /// Held while the table is built, so that it is built once.
    building: Mutex<()>,
    balance: Option<BoundedLoad>,
}

/// The backend of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Its position in the snapshot.
    pub(crate) position: usize,
    /// Whether the first in rank was above its load bound.
    pub(crate) displaced: bool,
}

impl Hashing {
    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key)
    }

    pub(crate) fn is_bounded(&self) -> bool {
        self.balance.is_some()
    }

    /// The first in rank for `key`; with bounded load the first one below its bound.
    #[inline]
    pub(crate) fn owner(
        &self,
        key: u64,
        ranking: &Arc<Ranking>,
        states: &[Arc<BackendState>],
    ) -> Option<Owner> {
        let table = self.table.map(|slots| self.maglev(slots, ranking));
        let first = match &table {
            Some(table) => table.slot(key)?,
            None => ranking.first(key)?,
        };
        let Some(balance) = self.balance else {
            return Some(Owner { position: first, displaced: false });
        };
        let loads =
            ranking.members().map(|(position, weight)| (states[position].in_flight(), weight));
        let (load, weight) = loads.fold((0, 0), |(load, total), (in_flight, weight)| {
            (load + in_flight as u64, total + u64::from(weight))
        });
        let bound = balance.bound(load, weight);
        let admits = |position: usize| {
            let state = &states[position];
            bound.admits(state.in_flight() as u64, state.weight())
        };
        if admits(first) {
            return Some(Owner { position: first, displaced: false });
        }
        // Loads change while they are read. When no member is below its bound, the first in rank
        // serves the request.
        let next = match &table {
            Some(table) => table.first_where(key, admits),
            None => ranking.first_where(key, admits),
        };
        let position = next.unwrap_or(first);
        Some(Owner { position, displaced: position != first })
    }

    /// The table for these members. The first request after a change of members builds it, which takes
    /// some milliseconds; health does not change it.
    fn maglev(&self, slots: Slots, ranking: &Arc<Ranking>) -> Arc<Maglev> {
        let ready = || {
            let built = self.built.load_full()?;
            (built.ranking().signature() == ranking.signature()).then_some(built)
        };
        if let Some(built) = ready() {
            return built;
        }
        let _building = lock(&self.building);
        if let Some(built) = ready() {
            return built;
        }
        let built = Arc::new(Maglev::new(ranking.clone(), slots));
        self.built.store(Some(built.clone()));
        built
    }
}

impl fmt::Debug for Hashing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hashing").field("table", &self.table).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_hashed_as_chosen() {
        let hash = |unkeyed| {
            let options = HashOptions { unkeyed, ..HashOptions::default() };
            options.bind().unwrap().hasher.hash(b"key")
        };
        assert_eq!(hash(true), KeyHasher::xxh3().hash(b"key"));
        assert_eq!(hash(false), KeyHasher::default().hash(b"key"));
        assert_ne!(hash(true), hash(false));
    }
}
