//! Telling the backend about the session of its request.

use http::Request;

use super::state::Dispatch;
use crate::{
    affinity::PlannedPin,
    id::{BackendId, SessionId},
    outcome::Verdict,
    pool::{Availability, BackendState, Mode, Snapshot},
    session::SessionInfo,
    util::clock::unix_millis,
};

impl<S> Dispatch<S> {
    /// Who the session is, and in which epoch, as things stand: what the backend is told is what is
    /// written on the answer.
    pub(super) fn planned_pin(&mut self) -> PlannedPin {
        // Counted as moving whatever the application says then: an epoch may be left out.
        let verdict = self.decision.verdict();
        let told = self.slow_path.as_ref().and_then(|slow_path| slow_path.told);
        if let Some((_, plan)) = told.filter(|told| told.0 == verdict) {
            return plan;
        }
        let core = &*self.core;
        let session = match &self.held {
            Some((held, _)) => Some(held.session()),
            None => self.key.or_else(|| core.affinity.new_session()),
        };
        let epoch = match (self.pin, verdict) {
            (Some(pin), Verdict::Pinned | Verdict::Borrowed) => pin.epoch,
            (None, _) if self.is_keyed() => core.backends.pool().load().epoch,
            (pin, _) => {
                unix_millis(&*core.clock).max(pin.map_or(0, |pin| pin.epoch.saturating_add(1)))
            }
        };
        let plan = PlannedPin { session, epoch };
        self.slow_path().told = Some((verdict, plan));
        plan
    }

    /// Says it in the request, in the ways that were asked for.
    #[cold]
    pub(super) fn describe_session<B>(
        &mut self,
        request: &mut Request<B>,
        state: &BackendState,
        forwards: bool,
    ) {
        if self.decision.verdict() == Verdict::Local {
            // The peer that forwarded the request has said it.
            // Only with sealed tokens it is certain that a peer, and nobody else, did.
            let core = &self.core;
            let believed = core.options.session_info.extensions && core.affinity.is_sealed();
            let told = SessionInfo::from_headers(request.headers());
            if let Some(told) = told.filter(|_| believed) {
                request.extensions_mut().insert(told);
            }
            return;
        }
        let mut plan = self.planned_pin();
        if let Some(pin) = self.pin.filter(|_| self.decision.is_pinned()) {
            plan.epoch = self.epoch_at(&pin, state);
        }
        let core = &*self.core;
        let session_info = core.options.session_info;
        // A plain token knows neither session nor epoch, and a request that passes by has none.
        let known = !self.silent && (self.pin.is_none_or(|pin| pin.session().is_some()));
        let session = plan.session.filter(|_| known);
        let keyed = self.pin.is_none() && self.is_keyed();
        let remembered = session.is_some() || keyed;
        let snapshot = core.backends.pool().load();
        let from = self.pin.and_then(|pin| snapshot.index().get(pin.backend));
        let info = SessionInfo {
            id: session.map(SessionId::new),
            epoch: remembered.then_some(plan.epoch),
            verdict: self.decision.verdict(),
            backend: state.id.clone(),
            from: from.filter(|from| from.tag != state.tag).map(|from| from.id.clone()),
            keyed,
            replicas: session.map_or(Vec::new(), |session| {
                replicas(&snapshot, session, state.tag, session_info.replicas)
            }),
        };
        if session_info.headers || forwards {
            info.write(request.headers_mut());
        }
        if session_info.extensions {
            request.extensions_mut().insert(info);
        }
    }
}

/// The first backends in the rank of `session` that are up, without the one that has it.
fn replicas<S>(snapshot: &Snapshot<S>, session: u64, home: u64, count: usize) -> Vec<BackendId> {
    let (ranking, states) = (snapshot.ranking(), snapshot.index().states());
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < count {
        let next = ranking.first_where(session, |position| {
            let state = &states[position];
            state.tag != home
                && state.mode() == Mode::Active
                && state.availability() != Availability::Down
                && !chosen.contains(&position)
        });
        match next {
            Some(position) => chosen.push(position),
            None => break,
        }
    }
    chosen.into_iter().map(|position| states[position].id.clone()).collect()
}
