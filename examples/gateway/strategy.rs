//! The strategies by name.

use std::sync::Arc;

use tower_sticky::strategy::{
    LeastConnections, LeastSessions, P2c, PeakEwma, Random, RoundRobin, Strategy,
};

use crate::config::Error;

/// The strategy called `name`, the value of `key`; without a name the default.
pub(crate) fn named(key: &str, name: Option<&str>) -> Result<Arc<dyn Strategy>, Error> {
    Ok(match name.unwrap_or("least-connections") {
        "round-robin" => Arc::new(RoundRobin::new()),
        "least-connections" => Arc::new(LeastConnections::new()),
        "least-sessions" => Arc::new(LeastSessions::new()),
        "random" => Arc::new(Random::new()),
        "p2c" => Arc::new(P2c::new()),
        "peak-ewma" => Arc::new(PeakEwma::new()),
        other => {
            return Err(Error::new(format!(
                "{key} = {other:?}: an unknown strategy; expected round-robin, least-connections, \
                 least-sessions, random, p2c or peak-ewma"
            )));
        }
    })
}
