//! Operations on the pool and requests through it, applied to the pool and to the model.

use futures_util::FutureExt as _;
use http::{Request, header};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tower::ServiceExt;
use tower_sticky::{Mode, Verdict};

use super::{
    model::{Answered, Answering, Expected, IDS, Member, Model, Occupied, SESSIONS, Started},
    node::Node,
};
use crate::support::Body;

#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Insert(usize),
    Replace(usize),
    Remove(usize),
    Mode(usize, Mode),
    Weight(usize, u32),
    Limit(usize, usize),
    Backup(usize, bool),
    /// A request from its start to the last byte of its answer.
    Request(usize),
    /// A request whose answer's body stays open.
    Open(usize),
    /// A request whose response is delayed.
    Start(usize),
    /// The backend answers one that was started.
    Answer(usize),
    /// The client cancels one that was started.
    Cancel(usize),
    /// The body of an open answer ends.
    Close(usize),
    /// A session forgets its cookie.
    Forget(usize),
}

pub(crate) fn operation() -> impl Strategy<Value = Operation> {
    let id = || 0..IDS.len();
    let session = || 0..SESSIONS;
    let mode = prop::sample::select(vec![
        Mode::Active,
        Mode::Active,
        Mode::Draining,
        Mode::Disabled,
        Mode::Drained,
    ]);
    prop_oneof![
        2 => id().prop_map(Operation::Insert),
        1 => id().prop_map(Operation::Replace),
        1 => id().prop_map(Operation::Remove),
        3 => (id(), mode).prop_map(|(id, mode)| Operation::Mode(id, mode)),
        2 => (id(), 0..3u32).prop_map(|(id, weight)| Operation::Weight(id, weight)),
        2 => (id(), prop::sample::select(vec![0, 0, 1, 2])).prop_map(|(id, max)| Operation::Limit(id, max)),
        2 => (id(), any::<bool>()).prop_map(|(id, backup)| Operation::Backup(id, backup)),
        8 => session().prop_map(Operation::Request),
        3 => session().prop_map(Operation::Open),
        3 => session().prop_map(Operation::Start),
        3 => (0..8usize).prop_map(Operation::Answer),
        1 => (0..8usize).prop_map(Operation::Cancel),
        3 => (0..8usize).prop_map(Operation::Close),
        1 => session().prop_map(Operation::Forget),
    ]
}

impl Model {
    fn insert(&mut self, id: usize) -> Result<(), TestCaseError> {
        let generation = self.next_generation();
        let node = Node { id, number: generation, log: self.log.clone() };
        let inserted = self.backends.insert(IDS[id], node).is_ok();
        prop_assert_eq!(inserted, !self.members.contains_key(&id), "an id is taken once");
        if inserted {
            let before = self.removed.remove(&id).filter(|before| before.in_flight > 0);
            let (same, in_flight, permits) = before.map_or((generation, 0, 0), |before| {
                (before.generation, before.in_flight, before.permits)
            });
            let fresh = Member {
                generation: same,
                service: generation,
                mode: Mode::Active,
                weight: 1,
                limit: 0,
                backup: false,
                in_flight,
                permits,
            };
            self.members.insert(id, fresh);
        }
        Ok(())
    }

    fn replace(&mut self, id: usize) -> Result<(), TestCaseError> {
        let number = self.next_generation();
        let node = Node { id, number, log: self.log.clone() };
        let old = self.backends.replace(IDS[id], node).ok().map(|old| old.number);
        let member = self.members.get_mut(&id);
        let known = member.map(|member| std::mem::replace(&mut member.service, number));
        prop_assert_eq!(old, known, "the old service comes back");
        Ok(())
    }

    fn remove(&mut self, id: usize) -> Result<(), TestCaseError> {
        let removed = self.backends.remove(IDS[id]).is_ok();
        let member = self.members.remove(&id);
        prop_assert_eq!(removed, member.is_some());
        self.removed.extend(member.map(|member| (id, member)));
        Ok(())
    }

    /// Changes a member of the model, which must exist exactly when the pool has accepted the change.
    fn set(
        &mut self,
        id: usize,
        set: bool,
        change: impl FnOnce(&mut Member),
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(set, self.members.get_mut(&id).map(change).is_some());
        Ok(())
    }

    pub(crate) async fn apply(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        match *operation {
            Operation::Insert(id) => self.insert(id)?,
            Operation::Replace(id) => self.replace(id)?,
            Operation::Remove(id) => self.remove(id)?,
            Operation::Mode(id, mode) => {
                let set = self.backends.set_mode(IDS[id], mode).is_ok();
                self.set(id, set, |member| member.mode = mode)?;
            }
            Operation::Weight(id, weight) => {
                let set = self.backends.set_weight(IDS[id], weight).is_ok();
                self.set(id, set, |member| member.weight = weight)?;
            }
            Operation::Limit(id, limit) => {
                let set = self.backends.set_limit(IDS[id], limit).is_ok();
                self.set(id, set, |member| member.limit = limit)?;
            }
            Operation::Backup(id, backup) => {
                let set = self.backends.set_backup(IDS[id], backup).is_ok();
                self.set(id, set, |member| member.backup = backup)?;
            }
            Operation::Request(session) => {
                if let Some((answered, occupied)) = self.request(session).await? {
                    let body = answered.into_body().collect().await.unwrap().to_bytes();
                    prop_assert_eq!(&body[..], b"some bytes");
                    self.release(occupied);
                }
            }
            Operation::Open(session) => {
                let answer = self.request(session).await?;
                self.open.extend(answer);
            }
            Operation::Start(session) => self.start(session).await?,
            Operation::Answer(at) if at < self.started.len() => {
                let started = self.started.swap_remove(at);
                self.answer(started).await?;
            }
            Operation::Cancel(at) if at < self.started.len() => {
                let started = self.started.swap_remove(at);
                self.cancel(started);
            }
            Operation::Close(at) if at < self.open.len() => {
                let (answered, occupied) = self.open.swap_remove(at);
                drop(answered);
                self.release(occupied);
            }
            Operation::Answer(_) | Operation::Cancel(_) | Operation::Close(_) => {}
            Operation::Forget(session) => self.sessions[session] = None,
        }
        self.check_pool()
    }

    /// Lets the backend answer, and checks the response.
    async fn answer(&mut self, started: Started) -> Result<(), TestCaseError> {
        let Started { answering, gate, session, expected, occupied } = started;
        gate.send(()).unwrap();
        let answered = answering.await.unwrap();
        self.check(session, &expected, Some(occupied.id), &answered)?;
        self.open.push((answered, occupied));
        Ok(())
    }

    fn cancel(&mut self, started: Started) {
        let verdict = match started.expected {
            Expected::Pinned(_) => Verdict::Pinned,
            Expected::One(verdict, ..) => verdict,
            Expected::Rejected(_) => Verdict::Rejected,
        };
        drop(started.answering);
        *self.counts.entry(verdict.as_str()).or_default() += 1;
        self.release(started.occupied);
    }

    pub(crate) fn call(&mut self, session: usize) -> Answering {
        let mut request = Request::new(Body::default());
        if let Some((token, _)) = &self.sessions[session] {
            let cookie = format!("x=1; sid={token}").try_into().unwrap();
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        self.sent += 1;
        Box::pin(self.service.clone().oneshot(request))
    }

    /// Sends a request and checks its response; returns it if a backend answered.
    pub(crate) async fn request(
        &mut self,
        session: usize,
    ) -> Result<Option<(Answered, Occupied)>, TestCaseError> {
        let expected = self.expect(session);
        let before = self.log.lock().unwrap().served.len();
        let answered = self.call(session).await.unwrap();
        let served = self.served_since(before)?;
        self.check(session, &expected, served, &answered)?;
        Ok(served.map(|id| (answered, self.acquire(id))))
    }

    pub(crate) async fn start(&mut self, session: usize) -> Result<(), TestCaseError> {
        let expected = self.expect(session);
        if matches!(expected, Expected::Rejected(_) | Expected::One(Verdict::Borrowed, ..)) {
            // It would wait before it is sent; `request` covers those.
            return Ok(());
        }
        let (gate, receiver) = oneshot::channel();
        let before = {
            let mut log = self.log.lock().unwrap();
            log.gate = Some(receiver);
            log.served.len()
        };
        let mut answering = self.call(session);
        prop_assert!((&mut answering).now_or_never().is_none(), "the gate is shut");
        let id = self.served_since(before)?;
        prop_assert!(id.is_some(), "it is sent at once: {:?}", expected);
        let occupied = self.acquire(id.unwrap());
        self.started.push(Started { answering, gate, session, expected, occupied });
        Ok(())
    }
}
