//! `[health]` and `[rebalance]`: who is alive, and who moves when that is uneven.

use std::time::Duration;

use tower_sticky::{Health, HttpProbe, Probe, Rebalance, proxy::Upstream};

use super::{Error, Humane, file, or, positive};

/// How the backends are watched, and how they are probed, if they are.
pub(super) fn health(section: &file::Health) -> Result<(Health, Option<HttpProbe>), Error> {
    let outlier = &section.outlier;
    let share = outlier.max_ejected.unwrap_or(0.5);
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::new(format!(
            "health.outlier.max_ejected = {share} is not a share of the backends; expected 0.0 (nobody \
             is ejected) to 1.0 (all may be)"
        )));
    }
    let interval = positive("health.readiness_interval", section.readiness_interval, 1000)?;
    let (first, longest) = redial(section)?;
    let mut health = Health::new()
        .readiness_interval(interval)
        .redial(first, longest)
        .connect_failures(outlier.connect_failures.unwrap_or(1))
        .consecutive_failures(outlier.consecutive_5xx.unwrap_or(0))
        .ejection(or(outlier.ejection, Duration::from_secs(10)))
        .max_ejected(share)
        .slow_start(or(section.slow_start, Duration::ZERO));
    let Some(section) = &section.probe else {
        return Ok((health, None));
    };
    let probe = HttpProbe::get(&section.path);
    Probe::<Upstream>::check(&probe)
        .map_err(|error| Error::new(format!("health.probe.path: {error}")))?;
    health = health
        .probe_interval(positive("health.probe.interval", section.interval, 1000)?)
        .probe_timeout(positive("health.probe.timeout", section.timeout, 500)?)
        .rise(in_a_row("health.probe.rise", section.rise, 2)?)
        .fall(in_a_row("health.probe.fall", section.fall, 3)?);
    Ok((health, Some(probe)))
}

/// The first pause between two looks at a suspect, and the longest.
fn redial(section: &file::Health) -> Result<(Duration, Duration), Error> {
    let first = positive("health.redial", section.redial, 100)?;
    let longest = match section.redial_max {
        None => first.max(Duration::from_secs(1)),
        given => positive("health.redial_max", given, 1000)?,
    };
    if longest < first {
        return Err(Error::new(format!(
            "health.redial_max is {longest:?}, which is less than health.redial, {first:?}; expected \
             the longest pause between two looks at a suspect backend, for example \"1s\""
        )));
    }
    Ok((first, longest))
}

fn in_a_row(key: &str, given: Option<u32>, default: u32) -> Result<u32, Error> {
    match given.unwrap_or(default) {
        0 => Err(Error::new(format!(
            "{key} is 0; expected how many probes in a row it takes, at least 1"
        ))),
        count => Ok(count),
    }
}

/// The layer checks the bounds when it is given them, and names `tolerance` and `idle_for`.
pub(super) fn rebalance(section: &file::Rebalance) -> Result<Rebalance, Error> {
    let mut rebalance = Rebalance::new();
    if let Some(times) = section.tolerance {
        rebalance = rebalance.tolerance(times);
    }
    if let Some(Humane(idle)) = section.idle_for {
        rebalance = rebalance.idle_for(idle);
    }
    match section.max_per_second {
        Some(0) => Err(Error::new(
            "rebalance.max_per_second is 0, so that nobody would ever move; use at least 1, or \
             leave [rebalance] out",
        )),
        Some(sessions) => Ok(rebalance.max_per_second(sessions)),
        None => Ok(rebalance),
    }
}
