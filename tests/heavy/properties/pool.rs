//! The pool under an operator's hands while sessions send requests: a model says what each request
//! must become, and the pool's own counters must agree with it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures_util::FutureExt as _;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tower::{Service, ServiceExt};
use tower_sticky::{
    Backends, Mode, NoInner, Outcome, Reason, StickyBody, StickyLayer, StickyService, Verdict,
    affinity::Cookie,
    strategy::{LeastConnections, P2c, Random, RoundRobin},
};

use crate::support::{Body, config, keys};

const IDS: [&str; 4] = ["a", "b", "c", "d"];
const SESSIONS: usize = 5;

#[derive(Debug, Clone)]
enum Op {
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
    /// A request whose answer does not come yet.
    Start(usize),
    /// The backend answers one that was started.
    Answer(usize),
    /// The client of one that was started goes away.
    Cancel(usize),
    /// The body of an open answer ends.
    Close(usize),
    /// A session forgets its cookie.
    Forget(usize),
}

fn op() -> impl Strategy<Value = Op> {
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
        2 => id().prop_map(Op::Insert),
        1 => id().prop_map(Op::Replace),
        1 => id().prop_map(Op::Remove),
        3 => (id(), mode).prop_map(|(id, mode)| Op::Mode(id, mode)),
        2 => (id(), 0..3u32).prop_map(|(id, weight)| Op::Weight(id, weight)),
        2 => (id(), prop::sample::select(vec![0, 0, 1, 2])).prop_map(|(id, max)| Op::Limit(id, max)),
        2 => (id(), any::<bool>()).prop_map(|(id, backup)| Op::Backup(id, backup)),
        8 => session().prop_map(Op::Request),
        3 => session().prop_map(Op::Open),
        3 => session().prop_map(Op::Start),
        3 => (0..8usize).prop_map(Op::Answer),
        1 => (0..8usize).prop_map(Op::Cancel),
        3 => (0..8usize).prop_map(Op::Close),
        1 => session().prop_map(Op::Forget),
    ]
}

/// A backend that answers when it is told to. The number tells what replaced what.
#[derive(Debug, Clone)]
struct Node {
    id: usize,
    number: usize,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    /// Who got a request: its place in `IDS`, and the number of its service.
    served: Vec<(usize, usize)>,
    /// When there is one, the next request's answer waits for it.
    gate: Option<oneshot::Receiver<()>>,
}

impl Service<Request<Body>> for Node {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let gate = {
            let mut log = self.log.lock().unwrap();
            log.served.push((self.id, self.number));
            log.gate.take()
        };
        Box::pin(async move {
            if let Some(gate) = gate {
                let _ = gate.await;
            }
            Ok(Response::new(Body::from("some bytes")))
        })
    }
}

/// One backend as it must be.
#[derive(Debug, Clone)]
struct Member {
    /// Tells it from one of the same id that was removed. One that comes back while requests are in
    /// flight on it is the same.
    life: usize,
    /// The number of its service.
    service: usize,
    mode: Mode,
    weight: u32,
    limit: usize,
    backup: bool,
    /// Requests in flight on it, and those of them that count against the limit.
    in_flight: usize,
    slots: usize,
}

impl Member {
    fn takes_new(&self) -> bool {
        self.mode == Mode::Active && self.weight > 0
    }

    fn has_room(&self) -> bool {
        self.limit == 0 || self.slots < self.limit
    }
}

/// What a request in flight occupies.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: usize,
    life: usize,
    /// Whether it counts against the limit: not when it came while there was none.
    slot: bool,
}

type Answered = Response<StickyBody<Body>>;
type Answering = Pin<Box<dyn Future<Output = Result<Answered, Infallible>>>>;

struct Started {
    answering: Answering,
    gate: oneshot::Sender<()>,
    session: usize,
    expected: Expected,
    place: Place,
}

/// What must become of a request.
#[derive(Debug, Clone)]
enum Expected {
    Pinned(usize),
    /// One of these serves it.
    One(Verdict, Option<Reason>, Vec<usize>),
    Rejected(Option<Reason>),
}

struct World {
    backends: Backends<Node>,
    service: StickyService<Node, NoInner>,
    log: Arc<Mutex<Log>>,
    members: BTreeMap<usize, Member>,
    /// Those that were removed while requests were in flight on them, the one that left last of each.
    departed: BTreeMap<usize, Member>,
    /// The cookie of each session, and the backend that it stands for.
    sessions: Vec<Option<(String, usize)>>,
    started: Vec<Started>,
    open: Vec<(Answered, Place)>,
    sent: u64,
    counts: BTreeMap<&'static str, u64>,
    tokens: u64,
    lives: usize,
}

impl World {
    fn new(strategy: usize) -> Self {
        let backends = Backends::new();
        let layer = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys(1)));
        let layer = match strategy {
            0 => layer.strategy(RoundRobin::new()),
            1 => layer.strategy(LeastConnections::new()),
            2 => layer.strategy(Random::seeded(7)),
            _ => layer.strategy(P2c::seeded(7)),
        };
        Self {
            backends,
            service: layer.outcome_extensions(true).into_service(),
            log: Arc::default(),
            members: BTreeMap::new(),
            departed: BTreeMap::new(),
            sessions: vec![None; SESSIONS],
            started: Vec::new(),
            open: Vec::new(),
            sent: 0,
            counts: BTreeMap::new(),
            tokens: 0,
            lives: 0,
        }
    }

    fn next_life(&mut self) -> usize {
        self.lives += 1;
        self.lives
    }

    async fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match *op {
            Op::Insert(id) => {
                let life = self.next_life();
                let node = Node { id, number: life, log: self.log.clone() };
                let inserted = self.backends.insert(IDS[id], node).is_ok();
                prop_assert_eq!(inserted, !self.members.contains_key(&id), "an id is taken once");
                if inserted {
                    let before = self.departed.remove(&id).filter(|before| before.in_flight > 0);
                    let (same, in_flight, slots) = before.map_or((life, 0, 0), |before| {
                        (before.life, before.in_flight, before.slots)
                    });
                    let fresh = Member {
                        life: same,
                        service: life,
                        mode: Mode::Active,
                        weight: 1,
                        limit: 0,
                        backup: false,
                        in_flight,
                        slots,
                    };
                    self.members.insert(id, fresh);
                }
            }
            Op::Replace(id) => {
                let number = self.next_life();
                let node = Node { id, number, log: self.log.clone() };
                let old = self.backends.replace(IDS[id], node).ok().map(|old| old.number);
                let member = self.members.get_mut(&id);
                let known = member.map(|member| std::mem::replace(&mut member.service, number));
                prop_assert_eq!(old, known, "the old service comes back");
            }
            Op::Remove(id) => {
                let removed = self.backends.remove(IDS[id]).is_ok();
                let member = self.members.remove(&id);
                prop_assert_eq!(removed, member.is_some());
                self.departed.extend(member.map(|member| (id, member)));
            }
            Op::Mode(id, mode) => {
                let set = self.backends.set_mode(IDS[id], mode).is_ok();
                let member = self.members.get_mut(&id);
                prop_assert_eq!(set, member.map(|member| member.mode = mode).is_some());
            }
            Op::Weight(id, weight) => {
                let set = self.backends.set_weight(IDS[id], weight).is_ok();
                let member = self.members.get_mut(&id);
                prop_assert_eq!(set, member.map(|member| member.weight = weight).is_some());
            }
            Op::Limit(id, limit) => {
                let set = self.backends.set_limit(IDS[id], limit).is_ok();
                let member = self.members.get_mut(&id);
                prop_assert_eq!(set, member.map(|member| member.limit = limit).is_some());
            }
            Op::Backup(id, backup) => {
                let set = self.backends.set_backup(IDS[id], backup).is_ok();
                let member = self.members.get_mut(&id);
                prop_assert_eq!(set, member.map(|member| member.backup = backup).is_some());
            }
            Op::Request(session) => {
                if let Some((answered, place)) = self.request(session).await? {
                    let body = answered.into_body().collect().await.unwrap().to_bytes();
                    prop_assert_eq!(&body[..], b"some bytes");
                    self.leave(place);
                }
            }
            Op::Open(session) => {
                let answer = self.request(session).await?;
                self.open.extend(answer);
            }
            Op::Start(session) => self.start(session).await?,
            Op::Answer(at) if at < self.started.len() => {
                let Started { answering, gate, session, expected, place } =
                    self.started.swap_remove(at);
                gate.send(()).unwrap();
                let answered = answering.await.unwrap();
                self.check(session, &expected, Some(place.id), &answered)?;
                self.open.push((answered, place));
            }
            Op::Cancel(at) if at < self.started.len() => {
                let started = self.started.swap_remove(at);
                let verdict = match started.expected {
                    Expected::Pinned(_) => Verdict::Pinned,
                    Expected::One(verdict, ..) => verdict,
                    Expected::Rejected(_) => Verdict::Rejected,
                };
                drop(started.answering);
                *self.counts.entry(verdict.as_str()).or_default() += 1;
                self.leave(started.place);
            }
            Op::Close(at) if at < self.open.len() => {
                let (answered, place) = self.open.swap_remove(at);
                drop(answered);
                self.leave(place);
            }
            Op::Answer(_) | Op::Cancel(_) | Op::Close(_) => {}
            Op::Forget(session) => self.sessions[session] = None,
        }
        self.check_pool()
    }

    /// What the rules say of a request of this session.
    fn expect(&self, session: usize) -> Expected {
        let pin = self.sessions[session].as_ref().map(|(_, id)| *id);
        // The ones that may be asked: backups only when no primary is up, and the session's own one
        // is not a primary that is busy.
        let asked = |not: Option<usize>, waits_for: Option<usize>| -> Vec<(usize, &Member)> {
            let members = self.members.iter().map(|(id, member)| (*id, member));
            let up = members.filter(|(id, member)| member.takes_new() && Some(*id) != not);
            let (backups, primaries): (Vec<_>, Vec<_>) = up.partition(|(_, member)| member.backup);
            let held = waits_for.is_some_and(|id| !self.members[&id].backup);
            if primaries.is_empty() && !held { backups } else { primaries }
        };
        let one = |verdict, reason, not: Option<usize>, waits_for: Option<usize>| {
            let asked = asked(not, waits_for);
            let free = asked.iter().filter(|(_, member)| member.has_room());
            let free: Vec<usize> = free.map(|(id, _)| *id).collect();
            if !free.is_empty() {
                return Expected::One(verdict, reason, free);
            }
            // All that may take it are full: it waits in vain.
            Expected::Rejected(if asked.is_empty() { reason } else { Some(Reason::Busy) })
        };
        let Some(id) = pin else {
            return one(Verdict::Assigned, None, None, None);
        };
        match self.members.get(&id) {
            None => one(Verdict::Assigned, Some(Reason::Unknown), None, None),
            Some(member) if member.mode == Mode::Disabled => {
                one(Verdict::Moved, Some(Reason::Disabled), Some(id), None)
            }
            Some(member) if member.mode == Mode::Drained => {
                one(Verdict::Moved, Some(Reason::Draining), Some(id), None)
            }
            Some(member) if member.has_room() => Expected::Pinned(id),
            Some(_) => one(Verdict::Borrowed, Some(Reason::Busy), Some(id), Some(id)),
        }
    }

    fn call(&mut self, session: usize) -> Answering {
        let mut request = Request::new(Body::default());
        if let Some((token, _)) = &self.sessions[session] {
            let cookie = format!("x=1; sid={token}").try_into().unwrap();
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        self.sent += 1;
        Box::pin(self.service.clone().oneshot(request))
    }

    /// Sends a request and checks its answer; gives the answer back if a backend made it.
    async fn request(
        &mut self,
        session: usize,
    ) -> Result<Option<(Answered, Place)>, TestCaseError> {
        let expected = self.expect(session);
        let before = self.log.lock().unwrap().served.len();
        let answered = self.call(session).await.unwrap();
        let served = self.served_since(before)?;
        self.check(session, &expected, served, &answered)?;
        Ok(served.map(|id| (answered, self.enter(id))))
    }

    async fn start(&mut self, session: usize) -> Result<(), TestCaseError> {
        let expected = self.expect(session);
        if matches!(expected, Expected::Rejected(_) | Expected::One(Verdict::Borrowed, ..)) {
            // It would wait before it is sent; `request` looks at those.
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
        let place = self.enter(id.unwrap());
        self.started.push(Started { answering, gate, session, expected, place });
        Ok(())
    }

    /// The backend that got a request since then.
    fn served_since(&self, before: usize) -> Result<Option<usize>, TestCaseError> {
        let log = self.log.lock().unwrap();
        let served = &log.served[before..];
        prop_assert!(served.len() <= 1, "a request is executed at most once");
        for (id, number) in served {
            let member = self.members.get(id);
            prop_assert!(member.is_some(), "{} is not in the pool", IDS[*id]);
            prop_assert_eq!(*number, member.unwrap().service, "its newest service");
            let out = matches!(member.unwrap().mode, Mode::Disabled | Mode::Drained);
            prop_assert!(!out, "what is taken out gets nothing");
        }
        Ok(served.first().map(|(id, _)| *id))
    }

    fn enter(&mut self, id: usize) -> Place {
        let member = self.members.get_mut(&id).unwrap();
        member.in_flight += 1;
        let slot = member.limit > 0;
        member.slots += usize::from(slot);
        Place { id, life: member.life, slot }
    }

    fn leave(&mut self, place: Place) {
        let there = self.members.get_mut(&place.id).into_iter();
        let gone = self.departed.get_mut(&place.id).into_iter();
        if let Some(member) = there.chain(gone).find(|member| member.life == place.life) {
            member.in_flight -= 1;
            member.slots -= usize::from(place.slot);
        }
    }

    fn check(
        &mut self,
        session: usize,
        expected: &Expected,
        served: Option<usize>,
        answered: &Answered,
    ) -> Result<(), TestCaseError> {
        let outcome = Outcome::of(answered.extensions()).unwrap();
        let named = outcome.backend().map(|id| id.as_str());
        let set = answered.headers().get(header::SET_COOKIE);
        let token = set.map(|set| set.to_str().unwrap()["sid=".len()..][..90].to_owned());
        *self.counts.entry(outcome.verdict().as_str()).or_default() += 1;
        self.tokens += u64::from(token.is_some());
        match expected {
            Expected::Rejected(reason) => {
                prop_assert_eq!(answered.status().as_u16(), 503);
                prop_assert_eq!(outcome.verdict(), Verdict::Rejected);
                prop_assert_eq!(outcome.reason(), *reason);
                prop_assert_eq!((served, token), (None, None));
                return Ok(());
            }
            Expected::Pinned(id) => {
                prop_assert_eq!(outcome.verdict(), Verdict::Pinned);
                prop_assert_eq!(served, Some(*id));
                prop_assert_eq!(outcome.reason(), None);
            }
            Expected::One(verdict, reason, ids) => {
                prop_assert_eq!(outcome.verdict(), *verdict);
                prop_assert_eq!(outcome.reason(), *reason);
                prop_assert!(ids.contains(&served.unwrap()), "{:?} of {:?}", served, ids);
            }
        }
        prop_assert_eq!(answered.status().as_u16(), 200);
        prop_assert_eq!(named, served.map(|id| IDS[id]), "the outcome names who served it");
        match outcome.verdict() {
            Verdict::Assigned | Verdict::Moved => {
                prop_assert!(token.is_some(), "the new pin is on the answer");
                self.sessions[session] = Some((token.unwrap(), served.unwrap()));
            }
            _ => prop_assert_eq!(token, None, "nothing changed"),
        }
        Ok(())
    }

    fn check_pool(&self) -> Result<(), TestCaseError> {
        let status = self.backends.snapshot();
        prop_assert_eq!(status.backends.len(), self.members.len());
        for (id, member) in &self.members {
            let backend = self.backends.get(IDS[*id]).unwrap();
            prop_assert_eq!(backend.in_flight, member.in_flight, "in flight on {}", IDS[*id]);
            prop_assert_eq!(backend.waiting, 0);
            prop_assert_eq!(
                (backend.mode, backend.weight, backend.limit),
                (member.mode, member.weight, member.limit)
            );
        }
        let stats = status.stats;
        prop_assert_eq!(stats.violations(), 0);
        prop_assert_eq!(stats.requests(), self.sent - self.started.len() as u64);
        for verdict in Verdict::ALL {
            let counted = self.counts.get(verdict.as_str()).copied().unwrap_or_default();
            prop_assert_eq!(stats.outcome(*verdict), counted, "{}", verdict);
        }
        prop_assert_eq!(stats.tokens_issued(), self.tokens);
        Ok(())
    }
}

proptest! {
    #![proptest_config(config(512))]

    #[test]
    fn every_request_becomes_what_the_rules_say(
        ops in prop::collection::vec(op(), 1..80),
        strategy in 0..4usize,
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // Time stands still but for those who wait.
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(strategy);
            for id in 0..2 {
                world.apply(&Op::Insert(id)).await?;
            }
            for op in &ops {
                world.apply(op).await?;
            }
            while !world.started.is_empty() {
                world.apply(&Op::Answer(0)).await?;
            }
            while !world.open.is_empty() {
                world.apply(&Op::Close(0)).await?;
            }
            for backend in world.backends.iter() {
                prop_assert_eq!(backend.in_flight, 0, "nothing is left in flight");
            }
            Ok(())
        })?;
    }
}

#[test]
fn parallel_requests_of_a_session_whose_backend_is_gone_stay_together() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        for gone in [Op::Mode(0, Mode::Disabled), Op::Remove(0)] {
            let mut world = World::new(0);
            for id in 0..4 {
                world.apply(&Op::Insert(id)).await.unwrap();
            }
            // Round robin: the first session is on the first backend.
            world.apply(&Op::Request(0)).await.unwrap();
            world.apply(&gone).await.unwrap();
            for _ in 0..6 {
                world.apply(&Op::Start(0)).await.unwrap();
            }
            let places: Vec<_> = world.started.iter().map(|started| started.place.id).collect();
            let one_place = places.iter().all(|id| *id == places[0]);
            assert!(one_place, "after {gone:?} one session is on the backends {places:?}");
        }
    });
}
