//! Certificates that are read again while the server runs.

use std::time::Duration;

use tokio::{
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{certificate::Pair, server_tls::ServerTls};
use crate::{error::ConfigError, util::lock};

/// How often certificates that end soon are warned about.
const WARN_EVERY: Duration = Duration::from_secs(24 * 3600);

impl ServerTls {
    /// Reads the files again, and uses what has changed for new connections. Returns whether something has.
    ///
    /// A running server calls this by itself; see
    /// [`reload_every`](super::ServerTlsBuilder::reload_every). It reads files, and so blocks for a moment.
    ///
    /// With another certificate, sessions can still be resumed. With other authorities of client certificates
    /// they cannot.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is not PEM, or a key does not fit its certificate. Then the old certificate
    /// stays, and everything else is updated. The first error is returned; the next call reports it again only if
    /// the file cannot be read, or has changed.
    pub fn reload(&self) -> Result<bool, ConfigError> {
        let inner = &*self.inner;
        let mut state = lock(&inner.state);
        let (mut pairs_changed, mut errors) = (false, Vec::new());
        for pair in &mut state.pairs {
            match pair.reload() {
                Ok(changed) => pairs_changed |= changed,
                Err(error) => errors.push(error),
            }
        }
        if pairs_changed {
            inner.resolver.replace(state.pairs.iter().map(Pair::loaded));
        }
        let mut ca_changed = false;
        if let Some(client_ca) = &mut state.client_ca {
            let reloaded = client_ca.reloaded().and_then(|reloaded| {
                let Some(reloaded) = reloaded else { return Ok(false) };
                inner.replace_client_ca(&reloaded)?;
                *client_ca = reloaded;
                Ok(true)
            });
            match reloaded {
                Ok(changed) => ca_changed = changed,
                Err(error) => errors.push(error),
            }
        }
        errors.into_iter().next().map_or(Ok(pairs_changed || ca_changed), Err)
    }

    /// Reads the files again, over and over, as long as the server runs.
    pub(in super::super) async fn keep_reloading(self) {
        let every = self.inner.settings.reload_every;
        let mut ticks = interval_at(Instant::now() + every, every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut warned = Instant::now();
        let mut reported = None;
        loop {
            ticks.tick().await;
            let tls = self.clone();
            match spawn_blocking(move || tls.reload()).await {
                Ok(Ok(changed)) => {
                    reported = None;
                    if changed {
                        tracing::info!("certificates were read again");
                    }
                }
                Ok(Err(error)) if reported.as_ref() != Some(&error) => {
                    tracing::error!(%error, "new certificates cannot be used; the old ones stay");
                    reported = Some(error);
                }
                _ => {}
            }
            if warned.elapsed() >= WARN_EVERY {
                warned = Instant::now();
                lock(&self.inner.state).pairs.iter().for_each(Pair::warn_of_expiry);
            }
        }
    }
}
