//! The learned ids that are kept in memory, across changes of the configuration.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tower_sticky::{
    ConfigError, Key, KeyRing,
    metrics::Report,
    store::{MemoryStore, RedisStore},
};

/// The tables of learned ids, by where the ids are and the keys that hash them. A configuration that names the same
/// ones again goes on with their sessions. A handle; clones share the tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stores(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    tables: HashMap<String, Table>,
    /// The key of the cookie when the configuration names none.
    generated: Option<Key>,
    /// The stores in use, by names without secrets.
    in_use: BTreeMap<String, InUse>,
    /// The secrets of tables that are still to be made.
    secrets: HashMap<String, Key>,
}

/// A store that is in use.
#[derive(Debug)]
pub(super) enum InUse {
    Memory(MemoryStore),
    Redis(RedisStore),
}

/// The keys that a process has generated, in base64.
#[derive(Serialize, Deserialize)]
pub(crate) struct KeptSecrets {
    cookie: Option<String>,
    tables: BTreeMap<String, String>,
}

impl fmt::Debug for KeptSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptSecrets(..)")
    }
}

#[derive(Debug)]
struct Table {
    store: MemoryStore,
    capacity: usize,
    /// Hashes the ids when there are no keys.
    secret: Key,
}

impl Stores {
    /// The table of a carrier, with a secret for its ids.
    pub(super) fn get(
        &self,
        carrier: &str,
        capacity: usize,
    ) -> Result<(MemoryStore, Key), ConfigError> {
        let Kept { tables, secrets, .. } = &mut *self.lock();
        match tables.get_mut(carrier) {
            Some(table) if table.capacity == capacity => {}
            Some(table) => {
                let resized = MemoryStore::new(capacity);
                resized.restore(&table.store.save(), Duration::ZERO)?;
                (table.store, table.capacity) = (resized, capacity);
            }
            None => {
                let secret = match secrets.remove(carrier) {
                    Some(secret) => secret,
                    None => Key::generate()?,
                };
                let store = MemoryStore::new(capacity);
                tables.insert(carrier.to_owned(), Table { store, capacity, secret });
            }
        }
        let table = &tables[carrier];
        Ok((table.store.clone(), table.secret.clone()))
    }

    /// The ids called `name` are in this store from now on.
    pub(super) fn set_in_use(&self, name: String, store: InUse) {
        self.lock().in_use.insert(name, store);
    }

    /// Adds the metrics of all stores that are in use.
    pub(crate) fn report(&self, report: Report) -> Report {
        self.lock().in_use.iter().fold(report, |report, (name, store)| match store {
            InUse::Memory(store) => report.memory_store(name, store),
            InUse::Redis(store) => report.redis_store(name, store),
        })
    }

    /// The keys of this process, for a cookie without keys.
    pub(super) fn generated_keys(&self) -> Result<KeyRing, ConfigError> {
        let generated = &mut self.lock().generated;
        let key = match generated {
            Some(key) => key.clone(),
            None => generated.insert(Key::generate()?).clone(),
        };
        KeyRing::new([key])
    }

    /// The pins of all tables.
    pub(crate) fn save(&self) -> BTreeMap<String, Vec<u8>> {
        let kept = self.lock();
        kept.tables.iter().map(|(carrier, table)| (carrier.clone(), table.store.save())).collect()
    }

    /// Adds pins that [`save`](Self::save) has returned, if the configuration has such a table.
    pub(crate) fn restore(
        &self,
        carrier: &str,
        pins: &[u8],
        age: Duration,
    ) -> Result<(), ConfigError> {
        match self.lock().tables.get(carrier) {
            Some(table) => table.store.restore(pins, age).map(drop),
            None => Ok(()),
        }
    }

    /// The keys that this process has generated.
    pub(crate) fn secrets(&self) -> KeptSecrets {
        let kept = self.lock();
        let tables = kept.tables.iter();
        KeptSecrets {
            cookie: kept.generated.as_ref().map(Key::to_base64),
            tables: tables.map(|(at, table)| (at.clone(), table.secret.to_base64())).collect(),
        }
    }

    /// Uses the keys that an earlier process has generated, for affinities that are made from now on.
    pub(crate) fn set_secrets(&self, secrets: &KeptSecrets) -> Result<(), ConfigError> {
        let mut kept = self.lock();
        kept.tables.clear();
        kept.generated = secrets.cookie.as_deref().map(Key::from_base64).transpose()?;
        for (carrier, secret) in &secrets.tables {
            kept.secrets.insert(carrier.clone(), Key::from_base64(secret)?);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
