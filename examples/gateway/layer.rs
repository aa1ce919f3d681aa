//! The sticky layer of the settings.

use tower_sticky::{Backends, StickyLayer, proxy::Upstream};

use crate::config::{Error, Probe, Settings};

/// The layer over `backends`.
pub(crate) fn build(
    settings: &Settings,
    backends: &Backends<Upstream>,
) -> Result<StickyLayer<Upstream>, Error> {
    let mut layer = StickyLayer::try_new(backends.clone(), settings.affinity.clone())?
        .strategy(settings.strategy.clone())
        .strict(settings.strict)
        .on_unavailable(settings.policy.failover)
        .on_busy(settings.policy.busy)
        .home_wait(settings.policy.home_wait)
        .max_attempts(settings.policy.max_attempts)
        .ready_timeout(settings.limits.ready_timeout)
        .max_waiters(settings.limits.max_waiters)
        .retry_idempotent(settings.policy.retry)
        .panic_mode(settings.policy.panic)
        .return_from_backup(settings.policy.return_from_backup)
        // Said in any case: what clients say in these headers is taken out.
        .session_headers(settings.session_headers.enabled)
        .replicas(settings.session_headers.replicas)
        // `Server-Timing` and the access log read them.
        .outcome_extensions(settings.server_timing || settings.access_log.is_some());
    layer = match settings.probe.clone() {
        Some(Probe::Http(probe)) => layer.try_health(settings.health.probe(*probe))?,
        Some(Probe::Grpc(probe)) => layer.try_health(settings.health.probe(probe))?,
        None => layer.health(settings.health),
    };
    if let Some(header) = &settings.application_header {
        layer = layer.application_header(header)?;
    }
    if let Some(rebalance) = settings.rebalance {
        layer = layer.rebalance(rebalance)?;
    }
    Ok(layer)
}
