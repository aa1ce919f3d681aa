//! The model of the pool: its members, and the expected outcome of a request.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
};

use http::Response;
use tokio::sync::oneshot;
use tower_sticky::{
    Backends, Mode, NoInner, Reason, StickyBody, StickyLayer, StickyService, Verdict,
    affinity::Cookie,
    strategy::{LeastConnections, P2c, Random, RoundRobin},
};

use super::node::{Log, Node};
use crate::support::{Body, keys};

pub(crate) const IDS: [&str; 4] = ["a", "b", "c", "d"];

pub(crate) const SESSIONS: usize = 5;

/// The expected state of one backend.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Distinguishes it from a removed one of the same id. One that returns while requests are in
    /// flight on it keeps its generation.
    pub(crate) generation: usize,
    /// The number of its service.
    pub(crate) service: usize,
    pub(crate) mode: Mode,
    pub(crate) weight: u32,
    pub(crate) limit: usize,
    pub(crate) backup: bool,
    /// Requests in flight on it, and those of them that count against the limit.
    pub(crate) in_flight: usize,
    pub(crate) permits: usize,
}

impl Member {
    pub(crate) fn takes_new(&self) -> bool {
        self.mode == Mode::Active && self.weight > 0
    }

    pub(crate) fn has_room(&self) -> bool {
        self.limit == 0 || self.permits < self.limit
    }
}

/// What a request in flight holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupied {
    pub(crate) id: usize,
    pub(crate) generation: usize,
    /// Whether it counts against the limit: not when it started while there was none.
    pub(crate) permit: bool,
}

pub(crate) type Answered = Response<StickyBody<Body>>;

pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Answered, Infallible>>>>;

pub(crate) struct Started {
    pub(crate) answering: Answering,
    pub(crate) gate: oneshot::Sender<()>,
    pub(crate) session: usize,
    pub(crate) expected: Expected,
    pub(crate) occupied: Occupied,
}

/// The expected outcome of a request.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Pinned(usize),
    /// One of these serves it.
    One(Verdict, Option<Reason>, Vec<usize>),
    Rejected(Option<Reason>),
}

pub(crate) struct Model {
    pub(crate) backends: Backends<Node>,
    pub(crate) service: StickyService<Node, NoInner>,
    pub(crate) log: Arc<Mutex<Log>>,
    pub(crate) members: BTreeMap<usize, Member>,
    /// The last removed member of each id, for its requests in flight.
    pub(crate) removed: BTreeMap<usize, Member>,
    /// The cookie of each session, and the backend that it names.
    pub(crate) sessions: Vec<Option<(String, usize)>>,
    pub(crate) started: Vec<Started>,
    pub(crate) open: Vec<(Answered, Occupied)>,
    pub(crate) sent: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) tokens: u64,
    pub(crate) generations: usize,
}

impl Model {
    pub(crate) fn new(strategy: usize) -> Self {
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
            removed: BTreeMap::new(),
            sessions: vec![None; SESSIONS],
            started: Vec::new(),
            open: Vec::new(),
            sent: 0,
            counts: BTreeMap::new(),
            tokens: 0,
            generations: 0,
        }
    }

    pub(crate) fn next_generation(&mut self) -> usize {
        self.generations += 1;
        self.generations
    }

    /// The expected outcome of a request of this session.
    pub(crate) fn expect(&self, session: usize) -> Expected {
        let pin = self.sessions[session].as_ref().map(|(_, id)| *id);
        // The ones that may be candidates: backups only when no primary is up, and the session's own one
        // is not a primary that is busy.
        let candidates = |not: Option<usize>, pinned: Option<usize>| -> Vec<(usize, &Member)> {
            let members = self.members.iter().map(|(id, member)| (*id, member));
            let up = members.filter(|(id, member)| member.takes_new() && Some(*id) != not);
            let (backups, primaries): (Vec<_>, Vec<_>) = up.partition(|(_, member)| member.backup);
            let held = pinned.is_some_and(|id| !self.members[&id].backup);
            if primaries.is_empty() && !held { backups } else { primaries }
        };
        let one = |verdict, reason, not: Option<usize>, pinned: Option<usize>| {
            let candidates = candidates(not, pinned);
            let free = candidates.iter().filter(|(_, member)| member.has_room());
            let free: Vec<usize> = free.map(|(id, _)| *id).collect();
            if !free.is_empty() {
                return Expected::One(verdict, reason, free);
            }
            // All candidates are full: it waits until its timeout.
            Expected::Rejected(if candidates.is_empty() { reason } else { Some(Reason::Busy) })
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

    pub(crate) fn acquire(&mut self, id: usize) -> Occupied {
        let member = self.members.get_mut(&id).unwrap();
        member.in_flight += 1;
        let permit = member.limit > 0;
        member.permits += usize::from(permit);
        Occupied { id, generation: member.generation, permit }
    }

    pub(crate) fn release(&mut self, occupied: Occupied) {
        let there = self.members.get_mut(&occupied.id).into_iter();
        let gone = self.removed.get_mut(&occupied.id).into_iter();
        if let Some(member) =
            there.chain(gone).find(|member| member.generation == occupied.generation)
        {
            member.in_flight -= 1;
            member.permits -= usize::from(occupied.permit);
        }
    }
}
