//! What the gateways with one delay know: their pool, and their key ring.

use std::sync::Arc;

use tower_sticky::{
    Backends, Key, KeyRing, Mode, NoInner, StickyLayer, StickyService, affinity, strategy,
};

use crate::{
    Failure,
    plan::Change,
    world::{Clock, Server, World},
};

/// A backend as one gateway knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    NotYet,
    Draining,
    Active,
    Left,
}

/// The pool of the gateways that learn of changes with the same delay.
pub(crate) struct View {
    world: Arc<World>,
    clock: Clock,
    ring: KeyRing,
    known: Vec<Known>,
    seed: u64,
    pub(crate) service: StickyService<Server, NoInner>,
}

pub(crate) fn id(number: usize) -> String {
    format!("server-{number}")
}

/// The keys before, during and after the rotation, the current one first.
pub(crate) fn key(number: u8) -> Result<Key, Failure> {
    Ok(Key::from_bytes(std::array::from_fn::<u8, 32, _>(|at| number * 100 + at as u8))?)
}

impl View {
    pub(crate) fn new(
        world: &Arc<World>,
        clock: &Clock,
        active: usize,
        seed: u64,
    ) -> Result<Self, Failure> {
        let mut known = vec![Known::Active; active];
        known.resize(active * 2, Known::NotYet);
        let ring = KeyRing::new([key(1)?])?;
        let service = build(world, clock, &ring, &known, seed)?;
        Ok(Self { world: world.clone(), clock: clock.clone(), ring, known, seed, service })
    }

    pub(crate) fn has_left(&self, number: usize) -> bool {
        self.known[number] == Known::Left
    }

    pub(crate) fn set_keys(&self, keys: &[u8]) -> Result<(), Failure> {
        let keys: Result<Vec<_>, _> = keys.iter().map(|&number| key(number)).collect();
        Ok(self.ring.set(keys?)?)
    }

    /// Makes the changes of one second.
    pub(crate) fn change(&mut self, changes: &[Change]) -> Result<(), Failure> {
        let world = &self.world;
        self.service.backends().update(|update| {
            for change in changes {
                match *change {
                    Change::Join(number) => {
                        let server = Server { number, world: world.clone() };
                        update.insert(id(number), server).set_mode(&id(number), Mode::Draining);
                    }
                    Change::Open(number) => drop(update.set_mode(&id(number), Mode::Active)),
                    Change::Drain(number) => drop(update.set_mode(&id(number), Mode::Draining)),
                    Change::Leave(number) => drop(update.remove(&id(number))),
                    Change::Stop(_) => {}
                }
            }
        })?;
        for change in changes {
            match *change {
                Change::Join(number) | Change::Drain(number) => {
                    self.known[number] = Known::Draining
                }
                Change::Open(number) => self.known[number] = Known::Active,
                Change::Leave(number) => self.known[number] = Known::Left,
                Change::Stop(_) => {}
            }
        }
        Ok(())
    }

    /// The gateways crash and start again: what they had in memory is gone.
    pub(crate) fn restart(&mut self) -> Result<(), Failure> {
        self.service = build(&self.world, &self.clock, &self.ring, &self.known, self.seed)?;
        Ok(())
    }
}

fn build(
    world: &Arc<World>,
    clock: &Clock,
    ring: &KeyRing,
    known: &[Known],
    seed: u64,
) -> Result<StickyService<Server, NoInner>, Failure> {
    let numbers =
        (0..known.len()).filter(|&number| matches!(known[number], Known::Draining | Known::Active));
    let backends = Backends::try_from_iter(
        numbers.map(|number| (id(number), Server { number, world: world.clone() })),
    )?;
    backends.update(|update| {
        for (number, _) in known.iter().enumerate().filter(|(_, known)| **known == Known::Draining)
        {
            update.set_mode(&id(number), Mode::Draining);
        }
    })?;
    let cookie = affinity::Cookie::sealed("sid", ring.clone());
    Ok(StickyLayer::new(backends, cookie)
        .strategy(strategy::LeastSessions::seeded(seed))
        .clock(clock.clone())
        .into_service())
}
