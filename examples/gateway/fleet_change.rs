//! A new configuration for the backends: what did not change keeps its connections, counts, health and drains, and
//! what the operator has changed by hand is overruled only where the file has changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tower_sticky::{ConfigError, Mode, PoolError, proxy::Upstream};

use crate::{
    config::{
        Settings,
        file::{self, Zone},
    },
    fleet::{Fleet, Member, Opening, look_up},
};

/// A change of the backends that is checked and can be made.
pub(crate) struct Change {
    opening: Arc<Opening>,
    /// The backends of the file.
    listed: BTreeMap<String, file::Backend>,
    /// New services, of backends that are new or are reached in another way.
    services: BTreeMap<String, (file::Backend, Upstream)>,
    shutdown_timeout: Duration,
}

impl Fleet {
    /// Prepares the change to `settings`. With `all` the services of all backends are made anew, because what they
    /// share has changed.
    pub(crate) fn plan(&self, settings: &Settings, all: bool) -> Result<Change, PoolError> {
        let opening = Arc::new(Opening::new(settings));
        let listed = listed(&settings.backends);
        let (members, before) = (self.members(), self.listed());
        let mut services = BTreeMap::new();
        for (id, new) in &listed {
            let (old, member) = (before.get(id), members.get(id));
            if member.is_none() && self.backends().get(id).is_some() {
                return Err(ConfigError::new(format!(
                    "backend.{id}.id: taken by a backend that [[discover]] has found; use another id"
                ))
                .into());
            }
            let entry = match (member, old) {
                (Some(member), Some(old)) => overrule(&member.entry, old, new),
                // The operator has removed it, and the file says nothing new.
                (None, Some(old)) if old == new => continue,
                _ => new.clone(),
            };
            if all || member.is_none_or(|member| !is_reached_alike(&member.entry, &entry)) {
                let upstream = self.open(&opening, &entry)?;
                services.insert(id.clone(), (entry, upstream));
            }
        }
        for (id, member) in members.iter().filter(|(id, _)| all && !listed.contains_key(*id)) {
            let upstream = self.open(&opening, &member.entry)?;
            services.insert(id.clone(), (member.entry.clone(), upstream));
        }
        Ok(Change {
            opening,
            listed,
            services,
            shutdown_timeout: settings.stopping.shutdown_timeout,
        })
    }

    /// Makes a change.
    pub(crate) fn apply(self: &Arc<Self>, mut change: Change) -> Result<(), PoolError> {
        let mut members = self.members();
        let mut before = self.listed();
        self.set_opening(change.opening);
        for (id, new) in &change.listed {
            let service = change.services.remove(id);
            match members.get_mut(id) {
                Some(member) => {
                    if let Some((entry, upstream)) = service {
                        drop(self.backends().replace(id, upstream.clone())?);
                        look_up(upstream.clone());
                        member.upstream = upstream;
                        member.entry = entry;
                    }
                    let is_back = member.leaving.take().inspect(|task| task.abort()).is_some();
                    self.set_options(before.get(id), new, is_back)?;
                }
                None => {
                    if let Some((entry, upstream)) = service {
                        self.insert_opened(&mut members, &entry, upstream)?;
                    }
                }
            }
        }
        for (id, (_, upstream)) in change.services {
            if let Some(member) = members.get_mut(&id) {
                drop(self.backends().replace(&id, upstream.clone())?);
                member.upstream = upstream;
            }
        }
        for id in before.keys().filter(|id| !change.listed.contains_key(*id)) {
            if let Some(member) = members.get_mut(id).filter(|member| member.leaving.is_none()) {
                self.leave(id, member, change.shutdown_timeout)?;
            }
        }
        *before = change.listed;
        Ok(())
    }

    /// Sets the options that the file has changed, or all of them for a backend that returns to it.
    fn set_options(
        &self,
        old: Option<&file::Backend>,
        new: &file::Backend,
        is_back: bool,
    ) -> Result<(), PoolError> {
        let (backends, id) = (self.backends(), &new.id);
        let old = old.filter(|_| !is_back);
        if old.is_none_or(|old| old.weight != new.weight) {
            backends.set_weight(id, new.weight)?;
        }
        if old.is_none_or(|old| old.max_connections != new.max_connections) {
            backends.set_limit(id, new.max_connections)?;
        }
        if old.is_none_or(|old| old.backup != new.backup) {
            backends.set_backup(id, new.backup)?;
        }
        if old.is_none_or(|old| old.zone != new.zone) {
            backends.set_zone(id, new.zone.as_ref().map(|Zone(zone)| zone.as_str()))?;
        }
        if old.is_none_or(|old| old.mode != new.mode) {
            backends.set_mode(id, new.mode.map_or(Mode::Active, Into::into))?;
        }
        Ok(())
    }

    /// A backend is gone from the file: its sessions are served until the timeout, and then it is removed.
    fn leave(
        self: &Arc<Self>,
        id: &str,
        member: &mut Member,
        timeout: Duration,
    ) -> Result<(), PoolError> {
        let drained = self.backends().drain(id).deadline(timeout).start()?;
        let (fleet, id) = (Arc::downgrade(self), id.to_owned());
        let task = tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            drop(drained);
            if let Some(fleet) = fleet.upgrade() {
                let _ = fleet.remove(&id);
            }
        });
        member.leaving = Some(task.abort_handle());
        Ok(())
    }
}

/// The backends by their ids, without their positions in the file.
pub(crate) fn listed(backends: &[file::Backend]) -> BTreeMap<String, file::Backend> {
    let without_position = |backend: &file::Backend| {
        (backend.id.clone(), file::Backend { at: String::new(), ..backend.clone() })
    };
    backends.iter().map(without_position).collect()
}

/// How a backend is reached by the new file: as the operator has said, where the file is the same as before.
fn overrule(current: &file::Backend, old: &file::Backend, new: &file::Backend) -> file::Backend {
    let url = if old.url == new.url { current.url.clone() } else { new.url.clone() };
    file::Backend { url, ..new.clone() }
}

/// Whether connections to both are made in the same way.
fn is_reached_alike(one: &file::Backend, other: &file::Backend) -> bool {
    let connection = |backend: &file::Backend| {
        (backend.url.clone(), backend.resolve_every, backend.connection())
    };
    connection(one) == connection(other)
}
