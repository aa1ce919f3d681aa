//! The backends as the operator has them, for the process that replaces this one.

use std::{collections::BTreeMap, time::Duration};

use toml::Value;
use tower_sticky::{Mode, PoolError};

use crate::{
    config::{
        Document,
        file::{self, Zone},
    },
    fleet::Fleet,
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
        let is_unchanged = |id: &str, key: &str| {
            let key = format!("backend.{id}.{key}");
            file_before.get(&key) == document.get(&key)
        };
        let was_listed = |id: &str| file_before.contains_key(&format!("backend.{id}.id"));
        for backend in saved {
            let id = &backend.id;
            let is_listed = self.listed().contains_key(id);
            let is_known = self.members().contains_key(id);
            if !is_known && (was_listed(id) || is_listed) {
                // It is gone from the file.
                continue;
            }
            if !is_known
                || (is_unchanged(id, "url") && self.url(id).as_deref() != Some(&backend.url))
            {
                let entry = file::Backend {
                    weight: backend.weight,
                    max_connections: backend.max_connections,
                    backup: backend.backup,
                    zone: backend.zone.clone().map(Zone),
                    ..file::Backend::new(id, &backend.url)
                };
                self.put(&entry)?;
            }
            let backends = self.backends();
            if is_unchanged(id, "weight") {
                backends.set_weight(id, backend.weight)?;
            }
            if is_unchanged(id, "max_connections") {
                backends.set_limit(id, backend.max_connections)?;
            }
            if is_unchanged(id, "backup") {
                backends.set_backup(id, backend.backup)?;
            }
            if is_unchanged(id, "zone") {
                backends.set_zone(id, backend.zone.as_deref())?;
            }
            if is_unchanged(id, "mode") {
                self.restore_mode(id, backend.mode)?;
            }
        }
        let listed: Vec<_> = self.listed().keys().cloned().collect();
        for id in listed {
            let is_same = document.section(&format!("backend.{id}."))
                == section(file_before, &format!("backend.{id}."));
            if is_same && !saved.iter().any(|backend| backend.id == id) {
                // The operator has removed it.
                self.remove(&id)?;
            }
        }
        Ok(())
    }

    fn restore_mode(&self, id: &str, mode: SavedMode) -> Result<(), PoolError> {
        let backends = self.backends();
        match mode {
            SavedMode::Active => backends.set_mode(id, Mode::Active)?,
            SavedMode::Disabled => backends.set_mode(id, Mode::Disabled)?,
            SavedMode::Draining { deadline: None, hand_over: None, .. } => {
                backends.set_mode(id, Mode::Draining)?;
            }
            SavedMode::Draining { deadline, then, hand_over } => {
                let mut drain = backends.drain(id).then(then.into());
                if let Some(deadline) = deadline {
                    let left = deadline.saturating_sub(unix_millis());
                    drain = drain.deadline(Duration::from_millis(left));
                }
                if let Some(rate) = hand_over {
                    drain = drain.hand_over(rate);
                }
                drop(drain.start()?);
            }
        }
        self.drains().insert(id.to_owned(), mode);
        Ok(())
    }
}

fn section(document: &BTreeMap<String, Value>, prefix: &str) -> BTreeMap<String, Value> {
    let within = document.iter().filter(|(key, _)| key.starts_with(prefix));
    within.map(|(key, value)| (key.clone(), value.clone())).collect()
}
