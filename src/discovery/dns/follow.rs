//! The loop that resolves a name and updates the pool.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::time::sleep;

use super::{
    answer::{Answer, Endpoint},
    resolve::Query,
    schedule::RefreshSchedule,
};
use crate::{
    discovery::{DiscoveryEnd, Target},
    error::BoxError,
    id::BackendId,
    pool::{ChangeKind, MemberChange, Ownership},
};

pub(super) async fn follow<S, F>(
    query: Query,
    mut schedule: RefreshSchedule,
    empty_when_gone: bool,
    make: F,
    target: Target<S>,
) -> DiscoveryEnd
where
    S: Clone,
    F: FnMut(&BackendId, SocketAddr) -> Result<S, BoxError>,
{
    let mut follower = Follower { make, target, empty_when_gone, known: HashMap::new() };
    loop {
        let answer = follower.target.wait(query.run(&follower.known)).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(end) => return end,
        };
        let pause = follower.apply(&answer, &mut schedule);
        if let Err(end) = follower.target.wait(sleep(pause)).await {
            return end;
        }
    }
}

struct Follower<S, F> {
    make: F,
    target: Target<S>,
    empty_when_gone: bool,
    /// The backends as this discovery has last added or changed them.
    known: HashMap<BackendId, Endpoint>,
}

impl<S, F> Follower<S, F>
where
    S: Clone,
    F: FnMut(&BackendId, SocketAddr) -> Result<S, BoxError>,
{
    /// Updates the pool. Returns the pause until the next look-up.
    fn apply(&mut self, answer: &Answer, schedule: &mut RefreshSchedule) -> Duration {
        for (id, why) in &answer.invalid {
            self.target.skip(id, why);
        }
        let gone = answer.failure.is_none() && answer.found.is_empty() && answer.invalid.is_empty();
        if let Some(why) = &answer.failure {
            self.target.record_failure(why);
        } else if gone && !self.empty_when_gone {
            self.target.record_failure("the name does not exist, or has no records");
        }
        // A partial answer is applied.
        if !answer.found.is_empty() || gone && self.empty_when_gone {
            let changes = self.reconcile(answer);
            self.target.update(changes);
        }
        if answer.failure.is_some() || gone && !self.empty_when_gone {
            schedule.after_failure()
        } else {
            schedule.after_answer(answer.ttl.unwrap_or_default())
        }
    }

    fn reconcile(&mut self, answer: &Answer) -> Vec<MemberChange<S>> {
        let mut changes = Vec::new();
        self.known.retain(|id, _| {
            let stays = answer.found.contains_key(id) || answer.unresolved.contains(id);
            if !stays {
                changes.push(MemberChange { id: id.clone(), kind: ChangeKind::Remove });
            }
            stays
        });
        for (id, &endpoint) in &answer.found {
            match self.target.ownership(id) {
                Ownership::Local => continue,
                Ownership::Foreign => {
                    let why = "the id belongs to a backend that this discovery has not added; \
                               remove that backend, or change one of the ids";
                    self.target.skip(id.as_str(), why);
                    continue;
                }
                Ownership::Own | Ownership::Free | Ownership::Orphaned => {}
            }
            changes.extend(self.change(id, endpoint));
        }
        changes
    }

    /// The change that makes the backend as it was found, if one is needed.
    fn change(&mut self, id: &BackendId, endpoint: Endpoint) -> Option<MemberChange<S>> {
        let known = self.known.get(id).filter(|_| self.target.ownership(id) == Ownership::Own);
        let weight =
            endpoint.weight.filter(|_| known.is_none_or(|known| known.weight != endpoint.weight));
        let kind = if known.is_some_and(|known| known.address == endpoint.address) {
            ChangeKind::Weight(weight?)
        } else {
            match (self.make)(id, endpoint.address) {
                Ok(service) => ChangeKind::Put { service, weight },
                Err(why) => {
                    self.target.skip(id.as_str(), why);
                    return None;
                }
            }
        };
        self.known.insert(id.clone(), endpoint);
        Some(MemberChange { id: id.clone(), kind })
    }
}
