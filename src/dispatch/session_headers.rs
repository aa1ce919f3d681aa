//! Describes the session to the backend, in the request's headers and extensions.

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
    /// The session's id and epoch for the current verdict. They are kept, so that the token on the response
    /// has the same ones as the request to the backend.
    pub(super) fn planned_pin(&mut self) -> PlannedPin {
        let verdict = self.decision.verdict();
        let planned = self.slow_path.as_ref().and_then(|slow_path| slow_path.planned);
        if let Some((_, plan)) = planned.filter(|(for_verdict, _)| *for_verdict == verdict) {
            return plan;
        }
        let core = &*self.core;
        let session = match &self.held {
            Some((held, _)) => Some(held.session()),
            None => self.key.or_else(|| core.affinity.new_session()),
        };
        let epoch = match (self.pin, verdict) {
            (Some(pin), Verdict::Pinned | Verdict::Borrowed) => pin.epoch,
            (None, _) if self.cannot_move() => core.backends.pool().load().epoch,
            (pin, _) => {
                unix_millis(&*core.clock).max(pin.map_or(0, |pin| pin.epoch.saturating_add(1)))
            }
        };
        let plan = PlannedPin { session, epoch };
        self.slow_path().planned = Some((verdict, plan));
        plan
    }

    /// Adds the session info to the request, in the configured ways.
    #[cold]
    pub(super) fn describe_session<B>(
        &mut self,
        request: &mut Request<B>,
        state: &BackendState,
        forwards: bool,
    ) {
        if self.decision.verdict() == Verdict::Local {
            // The headers are from the peer that forwarded the request. Without sealed tokens a client could
            // pretend to be a peer, so they are not trusted.
            let core = &self.core;
            let trusted = core.options.info.session_extension && core.affinity.is_sealed();
            let info = SessionInfo::from_headers(request.headers());
            if let Some(info) = info.filter(|_| trusted) {
                request.extensions_mut().insert(info);
            }
            return;
        }
        let mut plan = self.planned_pin();
        if let Some(pin) = self.pin.filter(|_| self.decision.is_pinned()) {
            plan.epoch = self.epoch_at(&pin, state);
        }
        let core = &*self.core;
        let options = core.options.info;
        // A plain token has neither session nor epoch, and a request without a pin belongs to no session.
        let known = !self.no_pin && (self.pin.is_none_or(|pin| pin.session().is_some()));
        let session = plan.session.filter(|_| known);
        let keyed = self.pin.is_none() && self.cannot_move();
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
                replicas(&snapshot, session, state.tag, options.replicas)
            }),
            route: core.affinity.route(state.tag, &state.id),
        };
        if options.writes_headers() || forwards {
            info.write(request.headers_mut());
        }
        if options.session_extension {
            request.extensions_mut().insert(info);
        }
    }
}

/// The first `count` backends in rank for `session` that are up, without the one with the tag `own`.
fn replicas<S>(snapshot: &Snapshot<S>, session: u64, own: u64, count: usize) -> Vec<BackendId> {
    let (ranking, states) = (snapshot.ranking(), snapshot.index().states());
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < count {
        let next = ranking.first_where(session, |position| {
            let state = &states[position];
            state.tag != own
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
