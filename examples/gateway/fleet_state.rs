//! The backends as the operator has them, for the process that replaces this one.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use toml::Value;
use tower_sticky::{Mode, PoolError, PoolUpdate, proxy::Upstream};

use crate::{
    config::{
        Document,
        file::{self, Zone},
        section,
    },
    fleet::{Fleet, Member, insert, look_up},
    state::{SavedBackend, SavedMode, unix_millis},
};

impl Fleet {
    /// All backends that the configuration or the operator has added.
    pub(crate) fn save(&self) -> Vec<SavedBackend> {
        let (members, drains) = (self.members(), self.drains());
        let statuses = self.backends().snapshot().backends.into_iter();
        let saved = statuses.filter_map(|status| {
            let id = status.id.as_str();
            let member = members.get(id).filter(|member| member.leaving.is_none())?;
            let mode = match (status.mode, drains.get(id)) {
                (Mode::Draining | Mode::Drained, Some(drain)) => *drain,
                (mode, _) => SavedMode::plain(mode),
            };
            Some(SavedBackend {
                id: id.to_owned(),
                url: member.entry.url.clone(),
                weight: status.weight,
                max_connections: status.limit,
                backup: status.backup,
                zone: status.zone,
                mode,
            })
        });
        saved.collect()
    }

    /// Makes the backends as they were, but for what the file has changed since.
    pub(crate) fn restore(
        &self,
        saved: &[SavedBackend],
        file_before: &BTreeMap<String, Value>,
        document: &Document,
    ) -> Result<(), PoolError> {
        let compared = Compared { file_before, document };
        let mut members = self.members();
        let listed: Vec<_> = self.listed().keys().cloned().collect();
        let is_gone = |id: &str| {
            let is_listed = listed.binary_search_by(|listed| (**listed).cmp(id)).is_ok();
            !members.contains_key(id) && (compared.was_listed(id) || is_listed)
        };
        let saved: Vec<_> = saved.iter().filter(|backend| !is_gone(&backend.id)).collect();
        let mut opened = Vec::new();
        for backend in &saved {
            if let Some(entry) = entry_of(members.get(&backend.id), backend, &compared) {
                let upstream = self.upstream(&entry)?;
                opened.push((entry, upstream));
            }
        }
        let ids: HashSet<_> = saved.iter().map(|backend| &backend.id).collect();
        // Those that the operator has removed.
        let removed = listed.iter().filter(|id| compared.is_same(id) && !ids.contains(id));
        let removed: Vec<_> = removed.filter(|id| members.contains_key(*id)).collect();
        self.backends().update(|change| {
            for (entry, upstream) in &opened {
                match members.contains_key(&entry.id) {
                    true => drop(change.replace(&entry.id, upstream.clone())),
                    false => insert(change, entry, upstream.clone()),
                }
            }
            for backend in &saved {
                compared.set_options(change, backend);
            }
            for id in &removed {
                change.remove(id);
            }
        })?;
        for (entry, upstream) in opened {
            look_up(upstream.clone());
            members.insert(entry.id.clone(), Member::new(entry, upstream));
        }
        for id in removed {
            members.remove(id);
        }
        drop(members);
        for backend in saved.iter().filter(|backend| compared.is_unchanged(&backend.id, "mode")) {
            self.restore_drain(&backend.id, backend.mode)?;
        }
        Ok(())
    }

    fn restore_drain(&self, id: &str, mode: SavedMode) -> Result<(), PoolError> {
        let SavedMode::Draining { deadline, then, hand_over } = mode else { return Ok(()) };
        if deadline.is_some() || hand_over.is_some() {
            let mut drain = self.backends().drain(id).then(then.into());
            if let Some(deadline) = deadline {
                let left = deadline.saturating_sub(unix_millis());
                drain = drain.deadline(Duration::from_millis(left));
            }
            if let Some(rate) = hand_over {
                drain = drain.hand_over(rate);
            }
            drop(drain.start()?);
        }
        self.drains().insert(id.to_owned(), mode);
        Ok(())
    }
}

/// The file of the earlier process, and that of this one.
struct Compared<'a> {
    file_before: &'a BTreeMap<String, Value>,
    document: &'a Document,
}

impl Compared<'_> {
    fn is_unchanged(&self, id: &str, key: &str) -> bool {
        let key = format!("backend.{id}.{key}");
        self.file_before.get(&key) == self.document.get(&key)
    }

    fn was_listed(&self, id: &str) -> bool {
        self.file_before.contains_key(&format!("backend.{id}.id"))
    }

    /// Whether both say the same of a backend.
    fn is_same(&self, id: &str) -> bool {
        let prefix = format!("backend.{id}.");
        self.document.section(&prefix) == section(self.file_before, &prefix)
    }

    /// Sets what the file has not changed since.
    fn set_options(&self, change: &mut PoolUpdate<Upstream>, backend: &SavedBackend) {
        let id = &backend.id;
        if self.is_unchanged(id, "weight") {
            change.set_weight(id, backend.weight);
        }
        if self.is_unchanged(id, "max_connections") {
            change.set_limit(id, backend.max_connections);
        }
        if self.is_unchanged(id, "backup") {
            change.set_backup(id, backend.backup);
        }
        if self.is_unchanged(id, "zone") {
            change.set_zone(id, backend.zone.as_deref());
        }
        if self.is_unchanged(id, "mode") {
            let mode = match backend.mode {
                SavedMode::Active => Mode::Active,
                SavedMode::Disabled => Mode::Disabled,
                SavedMode::Draining { .. } => Mode::Draining,
            };
            change.set_mode(id, mode);
        }
    }
}

/// How a backend is to be reached, if that is not as it is now.
fn entry_of(
    member: Option<&Member>,
    saved: &SavedBackend,
    compared: &Compared<'_>,
) -> Option<file::Backend> {
    let Some(member) = member else {
        return Some(file::Backend {
            weight: saved.weight,
            max_connections: saved.max_connections,
            backup: saved.backup,
            zone: saved.zone.clone().map(Zone),
            ..file::Backend::new(&saved.id, &saved.url)
        });
    };
    let is_moved = compared.is_unchanged(&saved.id, "url") && member.entry.url != saved.url;
    // What the file says of its connections stays.
    is_moved.then(|| file::Backend { url: saved.url.clone(), ..member.entry.clone() })
}
