//! From a key to a backend: what the hash modes share.

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

/// The lookup table of [Maglev](https://research.google/pubs/pub44824/) (Eisenbud et al. 2016), in
/// place of the rank: a choice takes the same short time for any number of backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Table {
    /// 65,537 slots (256 KiB), for up to a thousand backends.
    Small,
    /// 655,373 slots (2.5 MiB), for thousands.
    Large,
}

/// What a user chose.
#[derive(Debug, Clone, Default)]
pub(super) struct HashOptions {
    pub(super) secret: Option<Key>,
    pub(super) unkeyed: bool,
    pub(super) table: Option<Table>,
    pub(super) balance_factor: Option<f64>,
}

impl HashOptions {
    /// Checks it, for `carrier`.
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

/// Hashes keys and ranks backends for them.
pub struct Hashing {
    hasher: KeyHasher,
    table: Option<Slots>,
    /// The table for the members that were there last.
    built: ArcSwapOption<Maglev>,
    /// Held by whoever builds it, so that one does.
    building: Mutex<()>,
    balance: Option<BoundedLoad>,
}

/// The backend of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Its position in the snapshot.
    pub(crate) position: usize,
    /// Whether the first in rank had more than its share already.
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

    /// The first in rank for `key`, or with a bound on the load the first that is below it.
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
        // Loads change while they are looked at; were nobody below the bound, the first one is as
        // good as any.
        let next = match &table {
            Some(table) => table.first_where(key, admits),
            None => ranking.first_where(key, admits),
        };
        let position = next.unwrap_or(first);
        Some(Owner { position, displaced: position != first })
    }

    /// The table for these members. The first request after a change of members builds it, in a
    /// millisecond or some; health changes nothing in it.
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
