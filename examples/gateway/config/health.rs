//! `[health]` and `[rebalance]`.

use std::time::Duration;

use tower_sticky::{
    Backends, Health, KeyRing, Rebalance, StickyLayer, affinity::Cookie, proxy::Upstream,
};

use super::{Error, file, probe::Probe, settings::or};

/// How the backends are watched, and how they are probed, if they are.
pub(super) fn health(section: &file::Health) -> Result<(Health, Option<Probe>), Error> {
    let outlier = &section.outlier;
    let share = outlier.max_ejected.unwrap_or(0.5);
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::new(format!(
            "health.outlier.max_ejected = {share}: not a share of the backends; expected 0.0 (none is \
             ejected) to 1.0 (all may be)"
        )));
    }
    let (first, longest) = redial(section)?;
    let mut health = Health::new()
        .readiness_interval(or(section.readiness_interval, Duration::from_secs(1)))
        .redial(first, longest)
        .connect_failures(outlier.connect_failures.map_or(1, Into::into))
        .consecutive_failures(outlier.consecutive_5xx.map_or(0, Into::into))
        .ejection(or(outlier.ejection, Duration::from_secs(10)))
        .max_ejected(share)
        .slow_start(or(section.slow_start, Duration::ZERO));
    if let Some(probes) = section.probes_in_flight {
        health = health.probes_in_flight(probes.into());
    }
    let Some(section) = &section.probe else {
        return Ok((health, None));
    };
    let probe = Probe::new(section)?;
    health = health
        .probe_interval(or(section.interval, Duration::from_secs(1)))
        .probe_timeout(or(section.timeout, Duration::from_millis(500)))
        .rise(section.rise.map_or(2, Into::into))
        .fall(section.fall.map_or(3, Into::into));
    Ok((health, Some(probe)))
}

/// The first pause between two connection attempts to a suspect backend, and the longest.
fn redial(section: &file::Health) -> Result<(Duration, Duration), Error> {
    let first = or(section.redial, Duration::from_millis(100));
    let longest = or(section.redial_max, first.max(Duration::from_secs(1)));
    if longest < first {
        return Err(Error::new(format!(
            "health.redial_max = {longest:?}: less than health.redial, which is {first:?}; expected the \
             longest pause between two attempts to reach a suspect backend, for example \"1s\""
        )));
    }
    Ok((first, longest))
}

/// When sessions move because the load is uneven.
pub(super) fn rebalance(section: &file::Rebalance) -> Result<Rebalance, Error> {
    let mut rebalance = Rebalance::new();
    if let Some(factor) = section.tolerance {
        rebalance = rebalance.tolerance(factor);
        check("tolerance", factor, rebalance)?;
    }
    if let Some(idle) = section.idle_for {
        rebalance = rebalance.idle_for(idle.into());
        check("idle_for", Duration::from(idle), rebalance)?;
    }
    if let Some(sessions) = section.max_per_second {
        rebalance = rebalance.max_per_second(sessions.into());
    }
    Ok(rebalance)
}

/// Whether `rebalance` can be used, now that `key` has been set.
fn check(key: &str, value: impl std::fmt::Debug, rebalance: Rebalance) -> Result<(), Error> {
    let cookie = Cookie::sealed("check", KeyRing::generate()?);
    let layer = StickyLayer::try_new(Backends::<Upstream>::new(), cookie)?;
    let checked = layer.rebalance(rebalance).map(drop);
    checked.map_err(|error| Error::new(format!("rebalance.{key} = {value:?}: {error}")))
}
