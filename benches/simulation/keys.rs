//! Sessions by the hash of a key, while backends join and leave.

use std::fmt;

use http::{HeaderValue, Request};
use tower_service::Service;
use tower_sticky::{Backends, NoInner, StickyLayer, StickyService, affinity};

use crate::{
    Failure,
    plan::Options,
    progress::Progress,
    view::id,
    world::{Server, World, unwrap_infallible},
};

/// How often backends join and leave.
const ROUNDS: usize = 20;
/// One backend in so many is replaced in a round.
const REPLACED: u64 = 50;
/// How many keys are looked at.
const KEYS: u64 = 100_000;

/// What was counted.
#[derive(Debug)]
pub(crate) struct Counted {
    keys: u64,
    /// Keys whose backend has changed.
    pub(crate) moved: u64,
    /// The fewest that have to: all of those of a backend that leaves, and the share of one that joins.
    minimum: f64,
    /// Keys that moved although their backend stayed, to one that was there before.
    pub(crate) needless: u64,
    /// Keys with another backend on a gateway that has not learned of the last round.
    disagreements: u64,
    rounds: u64,
    fewest: u64,
    most: u64,
}

/// One gateway, and the owner of each key there.
struct Gateway {
    world: std::sync::Arc<World>,
    service: StickyService<Server, NoInner>,
}

impl Gateway {
    fn new(world: &std::sync::Arc<World>, members: &[usize]) -> Result<Self, Failure> {
        let servers =
            members.iter().map(|&number| (id(number), Server { number, world: world.clone() }));
        let backends = Backends::try_from_iter(servers)?;
        let layer = StickyLayer::new(backends, affinity::Key::header("x-user"));
        Ok(Self { world: world.clone(), service: layer.into_service() })
    }

    async fn owners(&mut self, keys: u64) -> Result<Vec<usize>, Failure> {
        let mut owners = Vec::with_capacity(keys as usize);
        for key in 0..keys {
            let mut request = Request::new(());
            request.headers_mut().insert("x-user", HeaderValue::from(key));
            unwrap_infallible(self.service.call(request).await);
            owners.push(self.world.take_served_by().ok_or("no server has answered")?);
        }
        Ok(owners)
    }

    fn change(&self, leaving: &[usize], joining: &[usize]) -> Result<(), Failure> {
        Ok(self.service.backends().update(|update| {
            for &number in leaving {
                update.remove(&id(number));
            }
            for &number in joining {
                update.insert(id(number), Server { number, world: self.world.clone() });
            }
        })?)
    }
}

pub(crate) async fn simulate(options: Options, progress: Progress) -> Result<Counted, Failure> {
    let keys = KEYS.min(options.sessions);
    let each = (options.backends / REPLACED).max(1) as usize;
    let world = World::new(options.backends as usize + ROUNDS * each);
    let mut members: Vec<usize> = (0..options.backends as usize).collect();
    let (mut gateway, late) = (Gateway::new(&world, &members)?, Gateway::new(&world, &members)?);
    let mut late = late;
    let mut before = gateway.owners(keys).await?;
    let mut counted = Counted {
        keys,
        moved: 0,
        minimum: 0.0,
        needless: 0,
        disagreements: 0,
        rounds: ROUNDS as u64,
        fewest: 0,
        most: 0,
    };
    for round in 0..ROUNDS {
        progress.tell(format_args!("keys: round {round} of {ROUNDS}"));
        let first = options.backends as usize + round * each;
        let joining: Vec<usize> = (first..first + each).collect();
        let leaving: Vec<usize> = members.drain(..each).collect();
        members.extend(&joining);

        gateway.change(&[], &joining)?;
        let joined = gateway.owners(keys).await?;
        let share = each as f64 / (members.len() + each) as f64;
        counted.minimum += keys as f64 * share;
        counted.compare(&before, &joined, |_| false, |new| joining.contains(&new));

        gateway.change(&leaving, &[])?;
        let left = gateway.owners(keys).await?;
        counted.minimum += joined.iter().filter(|owner| leaving.contains(owner)).count() as f64;
        counted.compare(&joined, &left, |old| leaving.contains(&old), |_| false);

        let old = late.owners(keys).await?;
        counted.disagreements +=
            old.iter().zip(&left).filter(|(old, new)| old != new).count() as u64;
        late.change(&leaving, &joining)?;
        before = left;
    }
    let mut counts = std::collections::HashMap::new();
    before.iter().for_each(|owner| *counts.entry(owner).or_insert(0) += 1);
    counted.fewest =
        members.iter().map(|member| *counts.get(member).unwrap_or(&0)).min().unwrap_or(0);
    counted.most = counts.values().copied().max().unwrap_or(0);
    Ok(counted)
}

impl Counted {
    fn compare(
        &mut self,
        before: &[usize],
        after: &[usize],
        has_left: impl Fn(usize) -> bool,
        is_new: impl Fn(usize) -> bool,
    ) {
        for (&old, &new) in before.iter().zip(after).filter(|(old, new)| old != new) {
            self.moved += 1;
            self.needless += u64::from(!has_left(old) && !is_new(new));
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys, moved, minimum, needless, rounds, .. } = self;
        writeln!(
            f,
            "keys: {keys} in {rounds} rounds, in each of which 2 % of the backends are replaced"
        )?;
        writeln!(
            f,
            "  moves: {moved}, {:.4} of the minimum of {minimum:.0}",
            *moved as f64 / minimum
        )?;
        writeln!(f, "  moves without need: {needless}")?;
        let share = self.disagreements as f64 / (keys * rounds) as f64;
        writeln!(
            f,
            "  on a gateway one round behind, {:.2} % have another backend",
            share * 100.0
        )?;
        write!(f, "  keys of a backend at the end: {} to {}", self.fewest, self.most)
    }
}
