//! The task that connects to Redis, and tries again until that works.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{
    breaker::Breaker,
    connection::{Connection, describe},
};
use crate::{redis::RedisTarget, util::Rng};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Owns the target while the task runs. Drop returns it, so one task connects at a time, and another
/// one can start after this one has ended in whatever way.
struct TargetGuard {
    breaker: Weak<Breaker>,
    target: Option<RedisTarget>,
}

impl TargetGuard {
    fn new(breaker: &Arc<Breaker>, target: RedisTarget) -> Self {
        Self { breaker: Arc::downgrade(breaker), target: Some(target) }
    }
}

impl Drop for TargetGuard {
    fn drop(&mut self) {
        if let (Some(breaker), Some(target)) = (self.breaker.upgrade(), self.target.take()) {
            breaker.return_target(target);
        }
    }
}

/// Connects, and tries again until that works or the store is dropped.
pub(super) fn reconnect(
    breaker: &Arc<Breaker>,
    target: RedisTarget,
) -> impl Future<Output = ()> + Send + use<> {
    run(TargetGuard::new(breaker, target))
}

async fn run(mut guard: TargetGuard) {
    let rng = Rng::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let Some(breaker) = guard.breaker.upgrade() else { return };
        let Some(target) = &mut guard.target else { return };
        // Always a new connection: a dead one may not fail for a quarter of an hour. The number selects
        // a node of a cluster, so that one that is down does not fail every attempt.
        match attempt(&breaker, target, rng.below(1 << 16)).await {
            Ok(connection) => {
                breaker.connected(connection);
                drop(guard);
                // The new connection may have failed while this task still had the target, so that no
                // other could start.
                if breaker.is_up() {
                    return;
                }
                let Some(target) = breaker.take_target() else { return };
                breaker.connecting();
                guard = TargetGuard::new(&breaker, target);
                pause = FIRST_PAUSE;
                continue;
            }
            Err(why) => breaker.not_connected(&why),
        }
        // Not held during the pause, so that the store can be dropped.
        drop(breaker);
        // Between three and five quarters of the pause, so that gateways do not connect in step.
        let quarter = pause / 4;
        let jitter = rng.below(quarter.as_micros() as usize * 2 + 1) as u64;
        sleep(pause - quarter + Duration::from_micros(jitter)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connects and makes one call, which must be answered as fast as those of requests.
async fn attempt(
    breaker: &Breaker,
    target: &mut RedisTarget,
    number: usize,
) -> Result<Connection, String> {
    let longest = breaker.connect_timeout();
    let connection = match timeout(longest, target.connect()).await {
        Ok(connection) => connection.map_err(|error| describe(&error))?,
        Err(_) => return Err("it does not answer in time".to_owned()),
    };
    // The first answer may be slow, because Redis may have to load the script.
    let too_slow = "it answers, but not within the time budget";
    for (limit, late) in [(longest, "it does not answer in time"), (breaker.budget, too_slow)] {
        let probe = breaker.commands.probe(number);
        match timeout(limit, connection.run_script(&breaker.commands, &probe)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(describe(&error)),
            Err(_) => return Err(late.to_owned()),
        }
    }
    Ok(connection)
}
