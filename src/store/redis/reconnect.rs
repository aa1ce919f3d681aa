//! Connecting, in the background, until it works.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use redis::RedisResult;
use tokio::time::{sleep, timeout};

use super::connection::{Link, describe};
use crate::{redis::RedisTarget, util::Rng};

/// An attempt may take this long, or ten times the budget of a call.
const ATTEMPT: Duration = Duration::from_secs(1);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What is connected anew: the engine.
pub(super) trait Reconnect: Send + Sync + 'static {
    /// How long a call may take.
    fn budget(&self) -> Duration;

    /// Asks a question over a connection that is not in use yet. Of a cluster, each number asks another node.
    fn ask(&self, link: &Link, number: usize) -> impl Future<Output = RedisResult<()>> + Send;

    fn is_up(&self) -> bool;

    /// Closes the breaker over a connection that works.
    fn connected(&self, link: Link);

    /// An attempt to connect was in vain.
    fn not_connected(&self, why: &str);

    /// Begins to connect, unless that is under way.
    fn wake(self: &Arc<Self>);

    /// Takes back what connects.
    fn rest(&self, source: RedisTarget);
}

/// What connects: there is one, so that one task at a time does. It is given back however that ends.
pub(super) struct TargetGuard<E: Reconnect> {
    engine: Weak<E>,
    source: Option<RedisTarget>,
}

impl<E: Reconnect> TargetGuard<E> {
    pub(super) fn new(engine: &Arc<E>, source: RedisTarget) -> Self {
        Self { engine: Arc::downgrade(engine), source: Some(source) }
    }
}

impl<E: Reconnect> Drop for TargetGuard<E> {
    fn drop(&mut self) {
        if let (Some(engine), Some(source)) = (self.engine.upgrade(), self.source.take()) {
            engine.rest(source);
        }
    }
}

/// Tries until it works or the store is gone. Always with a new connection: an old one over which
/// nothing comes may stay so for a quarter of an hour.
pub(super) async fn mend<E: Reconnect>(mut hold: TargetGuard<E>) {
    let chance = Rng::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(engine) = hold.engine.upgrade() else { return };
        let Some(source) = &mut hold.source else { return };
        // Of a cluster one node may be gone, and must not stand for all.
        match attempt(&*engine, source, chance.below(1 << 16)).await {
            Ok(link) => {
                engine.connected(link);
                drop(hold);
                // It may have failed again before there was anything to mend it with.
                if !engine.is_up() {
                    engine.wake();
                }
                return;
            }
            Err(why) => engine.not_connected(&why),
        }
        // The store can be dropped meanwhile.
        drop(engine);
        // Not all gateways at the same time: from three quarters of the pause to five quarters.
        let quarter = pause / 4;
        let spread = chance.below(quarter.as_micros() as usize * 2 + 1) as u64;
        sleep(pause - quarter + Duration::from_micros(spread)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// How long connecting may take, and how long the first question.
pub(super) fn longest(budget: Duration) -> Duration {
    ATTEMPT.max(budget.saturating_mul(10))
}

/// Connects and asks one question, which must be answered as fast as those of requests.
async fn attempt<E: Reconnect>(
    engine: &E,
    source: &mut RedisTarget,
    number: usize,
) -> Result<Link, String> {
    let longest = longest(engine.budget());
    let link = match timeout(longest, source.connect()).await {
        Ok(link) => link.map_err(|error| describe(&error))?,
        Err(_) => return Err("it does not answer in time".to_owned()),
    };
    // The first answer may be slow, for Redis may have to read the script.
    match timeout(longest, engine.ask(&link, number)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(describe(&error)),
        Err(_) => return Err("it does not answer in time".to_owned()),
    }
    match timeout(engine.budget(), engine.ask(&link, number)).await {
        Ok(Ok(())) => Ok(link),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("it answers, but not within the time budget".to_owned()),
    }
}
