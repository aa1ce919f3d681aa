//! The connections of `proxy::Upstream`.

use super::{catalog, visit::Sink};
use crate::{
    pool::Backends,
    upstream::http::{ConnectionStats, Upstream},
};

/// The connections of one backend at one time.
#[derive(Debug)]
pub(super) struct BackendConnections {
    pool: String,
    backend: String,
    stats: ConnectionStats,
}

impl BackendConnections {
    pub(super) fn of(backends: &Backends<Upstream>) -> Vec<Self> {
        let snapshot = backends.pool().load();
        let states = snapshot.index().states().iter();
        let connections = states.filter_map(|state| {
            let position = snapshot.index().position(state.tag)?;
            let service = snapshot.members.services.get(position)?.as_ref()?;
            Some(Self {
                pool: backends.name().to_owned(),
                backend: state.id.to_string(),
                stats: service.connection_stats(),
            })
        });
        connections.collect()
    }
}

pub(super) fn visit(all: &[BackendConnections], sink: &mut impl Sink) {
    let mut tell = |metric, count: fn(&ConnectionStats) -> u64| {
        sink.begin(metric);
        for BackendConnections { pool, backend, stats } in all {
            sink.value(&[("pool", pool), ("backend", backend)], count(stats));
        }
    };
    tell(catalog::CONNECTIONS_OPENED, ConnectionStats::opened);
    tell(catalog::CONNECTIONS_REUSED, ConnectionStats::reused);
}
