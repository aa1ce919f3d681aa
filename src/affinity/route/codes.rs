//! The sealed routes of a pool's backends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use arc_swap::ArcSwap;

use crate::{
    id::BackendId,
    pool::Index,
    token::{KeyRing, RouteCode, RouteKeys},
    util::lock,
};

/// How many codes of backends that have left the pool are kept at the least.
const KEPT: usize = 1024;

/// The codes of a pool's backends under all keys of a ring. They are computed when the members or the keys have
/// changed.
#[derive(Debug)]
pub(super) struct Codes {
    keys: KeyRing,
    pool: String,
    table: ArcSwap<Table>,
    /// Held while the table is built, so that it is built once.
    building: Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    /// The keys and the members that it was built for.
    keys: Option<RouteKeys>,
    generation: u64,
    /// The tags of the backends, also of those that have left the pool.
    tags: HashMap<RouteCode, u64>,
    /// The code of each backend under the first key.
    first: HashMap<u64, RouteCode>,
}

impl Codes {
    pub(super) fn new(keys: KeyRing, pool: &str) -> Self {
        let (table, building) = (ArcSwap::default(), Mutex::default());
        Self { keys, pool: pool.to_owned(), table, building }
    }

    /// The tag of the backend with this code, which may have left the pool.
    #[inline]
    pub(super) fn tag(&self, code: RouteCode, index: &Index) -> Option<u64> {
        let table = self.table.load();
        if self.is_current(&table, index) {
            return table.tags.get(&code).copied();
        }
        self.build(index).tags.get(&code).copied()
    }

    /// The code of a backend under the first key.
    pub(super) fn first(&self, tag: u64, id: &BackendId) -> Option<RouteCode> {
        let table = self.table.load();
        let known = table.first.get(&tag).filter(|_| self.has_current_keys(&table));
        known.copied().or_else(|| RouteKeys::of(&self.keys).codes(&self.pool, id).next())
    }

    /// The position in the ring of the key under which a backend has this code.
    pub(super) fn key_of(&self, code: RouteCode, id: &BackendId) -> Option<usize> {
        RouteKeys::of(&self.keys).codes(&self.pool, id).position(|its| its == code)
    }

    fn is_current(&self, table: &Table, index: &Index) -> bool {
        table.generation == index.generation() && self.has_current_keys(table)
    }

    fn has_current_keys(&self, table: &Table) -> bool {
        table.keys.as_ref().is_some_and(|keys| keys.are_current(&self.keys))
    }

    #[cold]
    fn build(&self, index: &Index) -> Arc<Table> {
        let _building = lock(&self.building);
        let old = self.table.load_full();
        if self.is_current(&old, index) {
            return old;
        }
        let keys = RouteKeys::of(&self.keys);
        let mut table = Table { generation: index.generation(), ..Table::default() };
        let has_room = old.first.len() <= 2 * index.states().len() + KEPT;
        if self.has_current_keys(&old) && has_room {
            (table.tags, table.first) = (old.tags.clone(), old.first.clone());
        }
        for state in index.states() {
            if table.first.contains_key(&state.tag) {
                continue;
            }
            for (position, code) in keys.codes(&self.pool, &state.id).enumerate() {
                table.tags.insert(code, state.tag);
                if position == 0 {
                    table.first.insert(state.tag, code);
                }
            }
        }
        table.keys = Some(keys);
        let table = Arc::new(table);
        self.table.store(table.clone());
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pool::Backends, token::Key};

    #[tokio::test]
    async fn the_table_is_built_once_for_the_same_members_and_keys() {
        let key = |first: u8| Key::from_bytes((first..first + 32).collect::<Vec<u8>>()).unwrap();
        let keys = KeyRing::new([key(0)]).unwrap();
        let backends = Backends::from_iter([("a", ()), ("b", ())]);
        let codes = Codes::new(keys.clone(), "default");
        let build = || codes.build(backends.pool().load().index());
        let first = build();
        assert!(Arc::ptr_eq(&first, &build()));
        backends.insert("c", ()).unwrap();
        let second = build();
        assert_eq!((first.tags.len(), second.tags.len()), (2, 3));
        assert!(Arc::ptr_eq(&second, &build()));
        keys.set([key(1)]).unwrap();
        assert!(!Arc::ptr_eq(&second, &build()));
    }

    #[tokio::test]
    async fn the_codes_of_backends_that_have_left_are_known() {
        let key = Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap();
        let backends = Backends::from_iter([("a", ())]);
        let codes = Codes::new(KeyRing::new([key]).unwrap(), "default");
        let state = backends.pool().load().index().states()[0].clone();
        let code = codes.first(state.tag, &state.id).unwrap();
        let find = || codes.tag(code, backends.pool().load().index());
        assert_eq!(find(), Some(state.tag));
        backends.remove("a").unwrap();
        assert_eq!(find(), Some(state.tag), "no backend is left");
        backends.insert("b", ()).unwrap();
        assert_eq!(find(), Some(state.tag));
    }
}
