//! The loop of a feed from the domain name system.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::time::sleep;

use super::{
    resolve::{Answer, Asker, Found},
    schedule::RefreshSchedule,
};
use crate::{
    discovery::{DiscoveryEnd, Target},
    error::BoxError,
    id::BackendId,
    pool::{ChangeKind, MemberChange, Ownership},
};

pub(super) async fn follow<S, F>(
    asker: Asker,
    mut rhythm: RefreshSchedule,
    empty_when_gone: bool,
    make: F,
    target: Target<S>,
) -> DiscoveryEnd
where
    S: Clone,
    F: FnMut(&BackendId, SocketAddr) -> Result<S, BoxError>,
{
    let mut follower = Follower { make, target, known: HashMap::new() };
    loop {
        let asked = follower.target.wait(asker.look_up(&follower.known)).await;
        let Some(answer) = asked else {
            return DiscoveryEnd::PoolGone;
        };
        let pause = follower.take_in(answer, &mut rhythm, empty_when_gone);
        if follower.target.wait(sleep(pause)).await.is_none() {
            return DiscoveryEnd::PoolGone;
        }
    }
}

struct Follower<S, F> {
    make: F,
    target: Target<S>,
    /// The backends as this feed has set them up.
    known: HashMap<BackendId, Found>,
}

impl<S, F> Follower<S, F>
where
    S: Clone,
    F: FnMut(&BackendId, SocketAddr) -> Result<S, BoxError>,
{
    /// Makes of an answer what it says, and tells how long it is good for.
    fn take_in(
        &mut self,
        answer: Answer,
        rhythm: &mut RefreshSchedule,
        empty_when_gone: bool,
    ) -> Duration {
        for (id, why) in &answer.bad {
            self.target.skip(id, why);
        }
        let gone = answer.failure.is_none() && answer.found.is_empty() && answer.bad.is_empty();
        if let Some(why) = &answer.failure {
            self.target.failed(why);
        } else if gone && !empty_when_gone {
            self.target.failed("the name does not exist, or has no records");
        }
        // A part of an answer is better than none; a name that is gone is one only by option.
        if !answer.found.is_empty() || gone && empty_when_gone {
            let changes = self.reconcile(&answer);
            self.target.update(changes);
        }
        if answer.failure.is_some() || gone && !empty_when_gone {
            rhythm.after_failure()
        } else {
            rhythm.after_answer(answer.ttl.unwrap_or_default())
        }
    }

    fn reconcile(&mut self, answer: &Answer) -> Vec<MemberChange<S>> {
        let mut changes = Vec::new();
        self.known.retain(|id, _| {
            let stays = answer.found.contains_key(id) || answer.unsure.contains(id);
            if !stays {
                changes.push(MemberChange { id: id.clone(), kind: ChangeKind::Remove });
            }
            stays
        });
        for (id, &found) in &answer.found {
            match self.target.ownership(id) {
                Ownership::Local => continue,
                Ownership::Foreign => {
                    let why = "the id is taken by a backend that this feed did not bring; remove \
                               that one, or give one of them another id";
                    self.target.skip(id.as_str(), why);
                    continue;
                }
                Ownership::Own | Ownership::Free | Ownership::Orphaned => {}
            }
            changes.extend(self.set_up(id, found));
        }
        changes
    }

    /// What has to be done so that the backend is as it was found.
    fn set_up(&mut self, id: &BackendId, found: Found) -> Option<MemberChange<S>> {
        let known = self.known.get(id).filter(|_| self.target.ownership(id) == Ownership::Own);
        let weight =
            found.weight.filter(|_| known.is_none_or(|known| known.weight != found.weight));
        let kind = if known.is_some_and(|known| known.address == found.address) {
            ChangeKind::Weight(weight?)
        } else {
            match (self.make)(id, found.address) {
                Ok(service) => ChangeKind::Put { service, weight },
                Err(why) => {
                    self.target.skip(id.as_str(), why);
                    return None;
                }
            }
        };
        self.known.insert(id.clone(), found);
        Some(MemberChange { id: id.clone(), kind })
    }
}
