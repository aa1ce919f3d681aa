//! A new configuration for the backends: what did not change keeps its connections, counts, health and drains, and
//! what the operator has changed by hand is overruled only where the file has changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tower_sticky::{ConfigError, Mode, PoolError, PoolUpdate, proxy::Upstream};

use crate::{
    config::{
        Settings,
        file::{self, Zone},
    },
    fleet::{Fleet, Member, Opening, insert, look_up},
};

/// A change of the backends that is checked and can be made.
pub(crate) struct Change {
    opening: Arc<Opening>,
    /// The backends of the file.
    listed: BTreeMap<String, file::Backend>,
    /// New services, of backends that are new or are reached in another way.
    services: BTreeMap<String, (file::Backend, Upstream)>,
    zone: Option<Zone>,
}

impl Change {
    /// What changes in the pool.
    fn record(
        &self,
        members: &BTreeMap<String, Member>,
        before: &BTreeMap<String, file::Backend>,
        update: &mut PoolUpdate<Upstream>,
    ) {
        update.set_own_zone(self.zone.as_ref().map(|Zone(zone)| zone.as_str()));
        for (id, (entry, upstream)) in &self.services {
            match members.contains_key(id) {
                true => drop(update.replace(id, upstream.clone())),
                false => insert(update, entry, upstream.clone()),
            }
        }
        for (id, new) in &self.listed {
            // All options of a backend that returns to the file are its own again.
            if let Some(member) = members.get(id) {
                let old = before.get(id).filter(|_| member.leaving.is_none());
                set_options(update, old, new);
            }
        }
    }
}

/// Sets the options that the file has changed, or all of them without an `old` entry.
fn set_options(
    update: &mut PoolUpdate<Upstream>,
    old: Option<&file::Backend>,
    new: &file::Backend,
) {
    let id = &new.id;
    if old.is_none_or(|old| old.weight != new.weight) {
        update.set_weight(id, new.weight);
    }
    if old.is_none_or(|old| old.max_connections != new.max_connections) {
        update.set_limit(id, new.max_connections);
    }
    if old.is_none_or(|old| old.backup != new.backup) {
        update.set_backup(id, new.backup);
    }
    if old.is_none_or(|old| old.zone != new.zone) {
        update.set_zone(id, new.zone.as_ref().map(|Zone(zone)| zone.as_str()));
    }
    if old.is_none_or(|old| old.mode != new.mode) {
        update.set_mode(id, new.mode.map_or(Mode::Active, Into::into));
    }
}

/// Tells the departures of backends apart: one may return to the file, and be gone again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Departure(Arc<()>);

impl Departure {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The backends that a new file lists no longer.
#[must_use = "they stay until they are let go"]
pub(crate) struct Gone(Vec<String>);

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
        Ok(Change { opening, listed, services, zone: settings.zone.clone() })
    }

    /// Makes a change. Returns the backends that are gone from the file, which are still as they were.
    pub(crate) fn apply(&self, change: Change) -> Result<Gone, PoolError> {
        let mut members = self.members();
        let mut before = self.listed();
        self.backends().update(|update| change.record(&members, &before, update))?;
        self.set_opening(change.opening);
        for id in change.listed.keys() {
            if let Some(member) = members.get_mut(id) {
                member.leaving = None;
            }
        }
        for (id, (entry, upstream)) in change.services {
            look_up(upstream.clone());
            match members.get_mut(&id) {
                Some(member) => (member.entry, member.upstream) = (entry, upstream),
                None => drop(members.insert(id, Member::new(entry, upstream))),
            }
        }
        let gone = before.keys().filter(|id| !change.listed.contains_key(*id)).cloned().collect();
        *before = change.listed;
        Ok(Gone(gone))
    }

    /// The sessions of backends that are gone from the file are served until the timeout. Then they are removed.
    pub(crate) fn let_go(self: &Arc<Self>, Gone(ids): Gone, timeout: Duration) {
        let mut members = self.members();
        let stays = |id: &String| members.get(id).is_some_and(|member| member.leaving.is_none());
        let ids: Vec<_> = ids.into_iter().filter(stays).collect();
        if ids.is_empty() {
            return;
        }
        let drained = self.backends().update(|change| {
            for id in &ids {
                change.drain(id, timeout);
            }
        });
        if let Err(error) = drained {
            tracing::error!(%error, "backends that are gone from the file stay");
            return;
        }
        let departure = Departure::default();
        for id in &ids {
            if let Some(member) = members.get_mut(id) {
                member.leaving = Some(departure.clone());
            }
        }
        drop(members);
        let fleet = Arc::downgrade(self);
        drop(tokio::spawn(async move {
            tokio::time::sleep(timeout).await;
            if let Some(fleet) = fleet.upgrade() {
                fleet.depart(&ids, &departure);
            }
        }));
    }

    /// Removes those backends that have not returned to the file meanwhile.
    fn depart(&self, ids: &[String], departure: &Departure) {
        let mut members = self.members();
        let leaves = |id: &&String| {
            let leaving = members.get(*id).and_then(|member| member.leaving.as_ref());
            leaving.is_some_and(|leaving| leaving.is(departure))
        };
        let ids: Vec<_> = ids.iter().filter(leaves).collect();
        let removed = self.backends().update(|change| {
            for id in &ids {
                change.remove(id);
            }
        });
        if let Err(error) = removed {
            tracing::error!(%error, "backends that are gone from the file are not removed");
            return;
        }
        for id in ids {
            members.remove(id);
        }
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
    one.url == other.url
        && one.resolve_every == other.resolve_every
        && one.connection() == other.connection()
}
