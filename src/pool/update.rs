//! [`Backends::update`]: several changes of a pool as one.

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use super::{
    BackendOptions, BackendState, Backends, Mode, Pool, PoolError,
    backend::DrainPlan,
    shared::{check_free, is_local},
    snapshot::Members,
};
use crate::{id::BackendId, pool::Event, util::lock};

/// The changes of a [`Backends::update`], in their order. Each method says what it changes as the method of
/// [`Backends`] with the same name.
pub struct PoolUpdate<S> {
    steps: Vec<(String, Step<S>)>,
    own_zone: Option<Option<String>>,
}

enum Step<S> {
    Insert { service: S, options: BackendOptions },
    Replace { service: S },
    Remove,
    Set(Setting),
}

/// An option of a backend that is there.
#[derive(Debug)]
enum Setting {
    Weight(u32),
    Mode(Mode),
    Limit(usize),
    Backup(bool),
    Zone(Option<String>),
    Drain(Box<DrainPlan>),
}

impl<S> PoolUpdate<S> {
    /// Adds a backend of weight 1; see [`Backends::insert`].
    pub fn insert(&mut self, id: impl AsRef<str>, service: S) -> &mut Self {
        self.insert_with(id, service, BackendOptions::new())
    }

    /// Adds a backend with options; see [`Backends::insert_with`].
    pub fn insert_with(
        &mut self,
        id: impl AsRef<str>,
        service: S,
        options: BackendOptions,
    ) -> &mut Self {
        self.step(id.as_ref(), Step::Insert { service, options })
    }

    /// Gives a backend another service; see [`Backends::replace`].
    pub fn replace(&mut self, id: &str, service: S) -> &mut Self {
        self.step(id, Step::Replace { service })
    }

    /// Removes a backend; see [`Backends::remove`].
    pub fn remove(&mut self, id: &str) -> &mut Self {
        self.step(id, Step::Remove)
    }

    /// Sets the share of new sessions; see [`Backends::set_weight`].
    pub fn set_weight(&mut self, id: &str, weight: u32) -> &mut Self {
        self.step(id, Step::Set(Setting::Weight(weight)))
    }

    /// Sets the mode, and cancels a drain; see [`Backends::set_mode`].
    pub fn set_mode(&mut self, id: &str, mode: Mode) -> &mut Self {
        self.step(id, Step::Set(Setting::Mode(mode)))
    }

    /// Sets the most requests in flight; see [`Backends::set_limit`].
    pub fn set_limit(&mut self, id: &str, max_in_flight: usize) -> &mut Self {
        self.step(id, Step::Set(Setting::Limit(max_in_flight)))
    }

    /// Sets whether it is a backup; see [`Backends::set_backup`].
    pub fn set_backup(&mut self, id: &str, backup: bool) -> &mut Self {
        self.step(id, Step::Set(Setting::Backup(backup)))
    }

    /// Sets the zone of a backend; see [`Backends::set_zone`].
    pub fn set_zone(&mut self, id: &str, zone: Option<&str>) -> &mut Self {
        self.step(id, Step::Set(Setting::Zone(zone.map(str::to_owned))))
    }

    /// Drains a backend for at most this time; see [`Backends::drain`] and [`Drain::deadline`](super::Drain::deadline).
    pub fn drain(&mut self, id: &str, deadline: Duration) -> &mut Self {
        self.step(id, Step::Set(Setting::Drain(Box::new(DrainPlan::new(Some(deadline))))))
    }

    /// Sets the zone in which this program runs; see [`Backends::set_own_zone`].
    pub fn set_own_zone(&mut self, zone: Option<&str>) -> &mut Self {
        self.own_zone = Some(zone.map(str::to_owned));
        self
    }

    fn step(&mut self, id: &str, step: Step<S>) -> &mut Self {
        self.steps.push((id.to_owned(), step));
        self
    }
}

impl<S> fmt::Debug for PoolUpdate<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.steps.iter().map(|(id, _)| id).collect::<Vec<_>>();
        f.debug_struct("PoolUpdate").field("backends", &ids).finish_non_exhaustive()
    }
}

impl<S: Clone> Backends<S> {
    /// Makes many changes as one version of the pool: no request chooses among a half of them, and the cost is that of
    /// one change. They are made when `record` has returned.
    ///
    /// Of a backend that stays, requests read the weight, the mode and the limit directly; those of several backends
    /// change one after the other, within microseconds.
    ///
    /// # Errors
    ///
    /// That of the first change that cannot be made. Then nothing has changed.
    ///
    /// # Example
    ///
    /// ```
    /// use tower_sticky::{BackendOptions, Backends};
    ///
    /// let backends: Backends<()> = Backends::from_iter([("a", ()), ("b", ())]);
    /// backends.update(|change| {
    ///     change.remove("a").set_weight("b", 2);
    ///     for number in 0..1_000 {
    ///         change.insert_with(format!("c{number}"), (), BackendOptions::new().limit(100));
    ///     }
    /// })?;
    /// assert_eq!(backends.len(), 1_001);
    /// # Ok::<(), tower_sticky::PoolError>(())
    /// ```
    pub fn update(&self, record: impl FnOnce(&mut PoolUpdate<S>)) -> Result<(), PoolError> {
        let mut update = PoolUpdate { steps: Vec::new(), own_zone: None };
        record(&mut update);
        self.pool().make(update)
    }
}

/// The changes of an update, checked one by one and not made yet.
struct Draft<S> {
    members: Arc<Members<S>>,
    joined: HashSet<u64>,
    /// Members that leave. They are still among the members.
    leaving: HashSet<u64>,
    left: Vec<Arc<BackendState>>,
    replaced: Vec<u64>,
    settings: Vec<(u64, Setting)>,
    /// Services that are no longer used. They are dropped without a lock.
    former: Vec<Option<S>>,
}

/// What is left to do when the pool is no longer locked: it may wake waiters and drops services, which runs foreign code.
struct Afterwards<S> {
    limits: Vec<(Arc<BackendState>, usize)>,
    former: Vec<Option<S>>,
}

impl<S: Clone> Pool<S> {
    /// Publishes members among which this backend has another service. The caller holds `changing`.
    pub(super) fn publish_replacement(&self, state: &Arc<BackendState>, members: Members<S>) {
        self.reset_health(state);
        self.publish(Arc::new(members));
        state.begin_service_generation();
    }

    fn make(&self, update: PoolUpdate<S>) -> Result<(), PoolError> {
        let changing = lock(&self.changing);
        let mut draft = Draft::of(self.load().members.clone());
        for (id, step) in update.steps {
            draft.take(id, step)?;
        }
        if let Some(zone) = update.own_zone {
            self.own_zone.store(zone.map(Arc::new));
        }
        let Afterwards { limits, former } = self.commit(draft);
        drop(changing);
        for (state, limit) in limits {
            self.change_limit(&state, limit);
        }
        drop(former);
        Ok(())
    }

    /// Makes the changes, but for what is left to do afterwards.
    fn commit(&self, mut draft: Draft<S>) -> Afterwards<S> {
        draft.remove_leaving();
        let joined = self.join_all(&mut draft);
        let Draft { members, left, replaced, settings, former, .. } = draft;
        let mut limits = Vec::new();
        for (tag, setting) in settings {
            let Some(state) = members.index.get(tag) else { continue };
            match setting {
                Setting::Weight(weight) => self.change_weight(state, weight),
                Setting::Mode(mode) => self.change_mode(state, mode),
                Setting::Limit(limit) => limits.push((state.clone(), limit)),
                Setting::Backup(backup) => state.set_backup(backup),
                Setting::Zone(zone) => state.set_zone(zone),
                Setting::Drain(plan) => self.start_drain(state, *plan),
            }
        }
        let replaced = replaced.into_iter().filter_map(|tag| members.index.get(tag).cloned());
        let replaced: Vec<_> = replaced.collect();
        replaced.iter().for_each(|state| self.reset_health(state));
        self.removed.insert(&left);
        self.publish(members);
        replaced.iter().chain(&joined).for_each(|state| state.begin_service_generation());
        for state in &joined {
            self.events.publish(|| Event::Joined { backend: state.id.clone() });
        }
        left.iter().for_each(|state| self.finish_removal(state));
        Afterwards { limits, former }
    }

    /// Gives members that join the states that they had before, if those are in use.
    fn join_all(&self, draft: &mut Draft<S>) -> Vec<Arc<BackendState>> {
        let mut joined = Vec::new();
        if draft.joined.is_empty() {
            return joined;
        }
        // They are the last ones.
        let states = Arc::make_mut(&mut draft.members).index.states_mut();
        let first = states.len().saturating_sub(draft.joined.len());
        for state in states.iter_mut().skip(first) {
            state.count_sessions_since(self.tick());
            *state = self.removed.restore(state.clone());
            self.begin_slow_start(state);
            joined.push(state.clone());
        }
        joined
    }
}

impl<S: Clone> Draft<S> {
    fn of(members: Arc<Members<S>>) -> Self {
        Self {
            members,
            joined: HashSet::new(),
            leaving: HashSet::new(),
            left: Vec::new(),
            replaced: Vec::new(),
            settings: Vec::new(),
            former: Vec::new(),
        }
    }

    fn take(&mut self, id: String, step: Step<S>) -> Result<(), PoolError> {
        match step {
            Step::Insert { service, options } => self.insert(id, service, &options),
            Step::Replace { service } => self.replace(id, service),
            Step::Remove => self.remove(id),
            Step::Set(setting) => {
                let position = self.position(id)?;
                self.settings.push((self.members.index.states()[position].tag, setting));
                Ok(())
            }
        }
    }

    fn insert(
        &mut self,
        id: String,
        service: S,
        options: &BackendOptions,
    ) -> Result<(), PoolError> {
        let state = BackendState::new(BackendId::new(id)?);
        state.apply(options);
        if self.leaving.contains(&state.tag) {
            self.remove_leaving();
        }
        check_free(&self.members, &state)?;
        self.joined.insert(state.tag);
        self.members().push(Arc::new(state), Some(service));
        Ok(())
    }

    fn replace(&mut self, id: String, service: S) -> Result<(), PoolError> {
        let position = self.position(id)?;
        let state = self.members.index.states()[position].clone();
        if self.members.services[position].is_none() {
            return Err(is_local(&state.id).into());
        }
        let former = self.members().services[position].replace(service);
        self.former.push(former);
        self.replaced.push(state.tag);
        Ok(())
    }

    fn remove(&mut self, id: String) -> Result<(), PoolError> {
        let position = self.position(id)?;
        let state = self.members.index.states()[position].clone();
        self.leaving.insert(state.tag);
        if !self.joined.remove(&state.tag) {
            self.left.push(state);
        }
        Ok(())
    }

    /// Removes the members that leave, all at once.
    fn remove_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        let leaving = std::mem::take(&mut self.leaving);
        let former = self.members().remove_all(&leaving);
        self.former.extend(former);
        self.settings.retain(|(tag, _)| !leaving.contains(tag));
        self.replaced.retain(|tag| !leaving.contains(tag));
    }

    /// The members, to change them.
    fn members(&mut self) -> &mut Members<S> {
        Arc::make_mut(&mut self.members)
    }

    fn position(&self, id: String) -> Result<usize, PoolError> {
        let index = &self.members.index;
        let position = index.position_of(id.as_bytes());
        let stays = |position: &usize| !self.leaving.contains(&index.states()[*position].tag);
        position.filter(stays).ok_or(PoolError::Unknown(id))
    }
}
