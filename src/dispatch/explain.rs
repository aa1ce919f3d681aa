//! Explains a request: what it carries, and what would happen to it now. Nothing is sent, counted or changed.

use std::{future::poll_fn, sync::Arc};

use http::Request;
use tokio::time::timeout;

use super::{
    candidates::RemainingCandidates,
    core::Core,
    decision::{Recognized, Standing},
    explanation::{Explanation, Finding, Forecast},
    state::Dispatch,
};
use crate::{
    affinity::{
        Fallback, Findings, Head, KeyRole, PendingLookup, ReadContext, Reading, RequestState,
    },
    id::BackendId,
    outcome::{Failover, Reason, Verdict},
    pool::{Availability, BackendState, Mode, Snapshot},
    store::Answer,
};

/// How many look-ups in stores one explanation waits for, at most.
const MAX_LOOKUPS: usize = 16;

/// What the affinity finds in the request.
struct Inspected {
    reading: Reading,
    found: Findings,
    fallback: Option<Fallback>,
}

impl<S: Clone> Core<S> {
    /// What a request carries, and what would happen to it now.
    pub(crate) async fn explain<B>(self: &Arc<Self>, request: &Request<B>) -> Explanation {
        let head = Head::of(request);
        let mut state = RequestState::default();
        for _ in 0..MAX_LOOKUPS {
            match self.inspect(&head, &mut state) {
                Ok(inspected) => return self.explained(&inspected),
                Err(mut lookup) => {
                    let answer = poll_fn(|cx| lookup.poll(cx));
                    // As for a request, a store that does not answer in time knows nothing.
                    let answer = timeout(self.options.ready_timeout, answer).await;
                    lookup.complete(answer.unwrap_or(Answer::Nothing), &mut state);
                }
            }
        }
        self.explained(&Inspected {
            reading: Reading::default(),
            found: Vec::new(),
            fallback: None,
        })
    }

    fn inspect(
        &self,
        head: &Head<'_>,
        state: &mut RequestState,
    ) -> Result<Inspected, PendingLookup> {
        let snapshot = self.backends.pool().load();
        let mut context = ReadContext {
            index: snapshot.index(),
            clock: &*self.clock,
            state,
            idle_threshold: None,
            pending: None,
            fallback: None,
        };
        let mut found = Vec::new();
        let reading = self.affinity.inspect(head, &mut context, &mut found);
        match context.pending.take() {
            Some(lookup) => Err(lookup),
            None => Ok(Inspected { reading, found, fallback: context.fallback }),
        }
    }

    fn explained(self: &Arc<Self>, inspected: &Inspected) -> Explanation {
        let pool = self.backends.pool();
        let snapshot = pool.load();
        let findings = inspected.found.iter().map(|found| {
            let backend = found.backend.and_then(|tag| snapshot.index().get(tag));
            let session = found.pin.and_then(|pin| pin.session());
            let session = session.map(|session| pool.session_hash(session));
            Finding::new(found, backend.map(|state| state.id.clone()), session)
        });
        Explanation {
            pool: self.backends.name().to_owned(),
            findings: findings.collect(),
            forecast: Dispatch::new(self.clone(), false, None).foresee(&snapshot, inspected),
        }
    }
}

impl<S: Clone> Dispatch<S> {
    /// What would happen to a request.
    fn foresee(mut self, snapshot: &Snapshot<S>, inspected: &Inspected) -> Forecast {
        let reading = &inspected.reading;
        (self.pin, self.source) = (reading.pin, reading.origin);
        self.key = reading.pin.and_then(|pin| pin.session()).or(reading.key);
        if matches!(reading.key_role, KeyRole::Routes | KeyRole::RoutesAlways) {
            self.set_fallback(snapshot, reading, inspected.fallback);
        }
        if let Some(position) = reading.position {
            self.recognized = match reading.key_role {
                KeyRole::NamesBackend => Recognized::Route,
                _ => Recognized::Pin { refresh: reading.refresh },
            };
            return self.foresee_at(snapshot, &snapshot.index().states()[position]);
        }
        if reading.unavailable {
            let why = "the store of the sessions does not answer".to_owned();
            return Forecast { verdict: Verdict::Rejected, backend: None, reason: None, why };
        }
        if let Some(reason) = reading.reason
            && self.refuses(reading, reason)
        {
            let why = format!("its token is of no use ({reason}), and the layer is strict");
            return Forecast {
                verdict: Verdict::Rejected,
                backend: None,
                reason: Some(reason),
                why,
            };
        }
        if let Some(key) = self.deciding_key(reading) {
            self.recognized = Recognized::Key;
            if let Some(owner) = self.owner(snapshot, key) {
                return self.foresee_at(snapshot, &snapshot.index().states()[owner.position]);
            }
        }
        self.foresee_new(snapshot, reading.reason)
    }

    /// What would happen to a request whose session is at `state`.
    fn foresee_at(&mut self, snapshot: &Snapshot<S>, state: &BackendState) -> Forecast {
        let id = &state.id;
        let policy = self.core.options.unavailable;
        match self.standing(snapshot, state) {
            Standing::Serves => Forecast {
                verdict: Verdict::Pinned,
                backend: Some(id.clone()),
                reason: None,
                why: self.why_pinned(state),
            },
            Standing::Drained => {
                let why = format!("the drain of {id} has passed its deadline");
                self.foresee_elsewhere(
                    snapshot,
                    state,
                    Reason::Draining,
                    state.drained_policy(),
                    why,
                )
            }
            Standing::Disabled => {
                let why = format!("{id} is disabled");
                self.foresee_elsewhere(snapshot, state, Reason::Disabled, policy, why)
            }
            Standing::Unhealthy => {
                let why = match state.availability() {
                    Availability::Suspect => format!(
                        "{id} is suspect: it is tried again when a trial is due, or when no better backend is left"
                    ),
                    _ => format!("{id} is down"),
                };
                self.foresee_elsewhere(snapshot, state, Reason::Down, policy, why)
            }
        }
    }

    fn why_pinned(&self, state: &BackendState) -> String {
        let id = &state.id;
        let by = match self.recognized {
            Recognized::Pin { .. } => "its session is there",
            Recognized::Route => "its id names it",
            Recognized::Key => "its key is hashed to it",
            Recognized::NoSession => "it was chosen",
        };
        let further = if state.is_full() {
            "; it is at its limit, so the request waits"
        } else if state.mode() == Mode::Draining {
            "; it is draining, and keeps its sessions until they end or are handed over"
        } else {
            ""
        };
        format!("{by}, and {id} serves{further}")
    }

    /// What would happen to a request whose backend cannot serve it.
    fn foresee_elsewhere(
        &mut self,
        snapshot: &Snapshot<S>,
        state: &BackendState,
        reason: Reason,
        policy: Failover,
        why: String,
    ) -> Forecast {
        let reason = Some(reason);
        let Some(verdict) = self.failover_verdict(policy) else {
            let why = format!("{why}, and sessions of such a backend are refused");
            return Forecast { verdict: Verdict::Rejected, backend: None, reason, why };
        };
        let fallback = self.take_fallback(snapshot).map(|state| Next::Backend(state.id.clone()));
        match fallback.unwrap_or_else(|| self.next_after(Some(state.tag))) {
            Next::Backend(backend) => Forecast { verdict, backend: Some(backend), reason, why },
            Next::ByStrategy => Forecast {
                verdict,
                backend: None,
                reason,
                why: format!("{why}; the strategy chooses another backend"),
            },
            Next::Nobody => Forecast {
                verdict: Verdict::Rejected,
                backend: None,
                reason,
                why: format!("{why}, and no other backend takes sessions"),
            },
        }
    }
}

/// Where a request goes that its own backend does not serve.
enum Next {
    Backend(BackendId),
    ByStrategy,
    Nobody,
}

impl<S: Clone> Dispatch<S> {
    /// Where the request goes, other than to the backend with the tag `tried`.
    fn next_after(&self, tried: Option<u64>) -> Next {
        let mut remaining = RemainingCandidates::new(&self.core);
        if let Some(tag) = tried {
            remaining.mark_tried(tag);
        }
        let candidates = remaining.tiers.iter().rev().find(|tier| !tier.states.is_empty());
        match candidates.map(|tier| &tier.states[..]) {
            None => Next::Nobody,
            Some([only]) => Next::Backend(only.id.clone()),
            // Without a key the strategy would be asked, which remembers its choices.
            Some(_) if self.key.is_none() => Next::ByStrategy,
            Some(_) => match remaining.take_next(&self.core, self.key) {
                Some(state) => Next::Backend(state.id.clone()),
                None => Next::Nobody,
            },
        }
    }

    /// What would happen to a request without a session at a backend of the pool.
    fn foresee_new(&mut self, snapshot: &Snapshot<S>, reason: Option<Reason>) -> Forecast {
        let why = match (reason, self.pin, self.key) {
            (Some(Reason::Unknown), Some(_), _) => "the backend of its session has left the pool",
            (Some(_), ..) => "its token is of no use, so a session begins",
            (None, _, Some(_)) => "its key is not known yet, so a session begins",
            (None, _, None) => "it has no session, so one begins",
        };
        let verdict = Verdict::Assigned;
        let owner = self.key.and_then(|key| self.owner(snapshot, key));
        let owner = owner.map(|owner| &snapshot.index().states()[owner.position]);
        let first = owner.filter(|state| state.takes_new_sessions()).map(|state| state.id.clone());
        match first.map_or_else(|| self.next_after(None), Next::Backend) {
            Next::Backend(id) => {
                Forecast { verdict, backend: Some(id), reason, why: why.to_owned() }
            }
            Next::ByStrategy => {
                let why = format!("{why}; the strategy chooses its backend");
                Forecast { verdict, backend: None, reason, why }
            }
            Next::Nobody if !snapshot.suspects.is_empty() => {
                let why = format!("{why}; only suspect backends are left, which are tried");
                Forecast { verdict, backend: None, reason, why }
            }
            Next::Nobody => {
                let why = format!("{why}, and no backend takes one");
                Forecast { verdict: Verdict::Rejected, backend: None, reason, why }
            }
        }
    }
}
