//! The learned ids that are kept in memory, across changes of the configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tower_sticky::{ConfigError, Key, KeyRing, store::MemoryStore};

/// The tables of learned ids, by where the ids are and the keys that hash them. A configuration that names the same
/// ones again goes on with their sessions. A handle; clones share the tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stores(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    tables: HashMap<String, Table>,
    /// The key of the cookie when the configuration names none.
    generated: Option<Key>,
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
        let tables = &mut self.lock().tables;
        match tables.get_mut(carrier) {
            Some(table) if table.capacity == capacity => {}
            Some(table) => {
                let resized = MemoryStore::new(capacity);
                resized.restore(&table.store.save(), Duration::ZERO)?;
                (table.store, table.capacity) = (resized, capacity);
            }
            None => {
                let (store, secret) = (MemoryStore::new(capacity), Key::generate()?);
                tables.insert(carrier.to_owned(), Table { store, capacity, secret });
            }
        }
        let table = &tables[carrier];
        Ok((table.store.clone(), table.secret.clone()))
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

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
