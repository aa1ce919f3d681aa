//! The stores of learned sessions.

use super::{catalog, visit::Sink};
#[cfg(feature = "redis")]
use crate::store::{RedisStats, RedisStore};
use crate::{outcome::recording::HistogramTotals, store::MemoryStore};

/// A store at one time.
#[derive(Debug)]
pub(super) struct StoreView {
    name: String,
    sessions: u64,
    evictions: u64,
    /// `None` in memory.
    calls: Option<Calls>,
}

/// The calls to Redis.
#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only a store on Redis has some"))]
#[derive(Debug)]
struct Calls {
    times: HistogramTotals,
    /// By what has become of them.
    failed: [(&'static str, u64); 3],
}

impl StoreView {
    pub(super) fn memory(name: &str, store: &MemoryStore) -> Self {
        Self {
            name: name.to_owned(),
            sessions: store.len() as u64,
            evictions: store.evictions(),
            calls: None,
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn redis(name: &str, store: &RedisStore) -> Self {
        let stats: RedisStats = store.stats();
        let failed = [
            ("timeout", stats.timeouts()),
            ("failure", stats.failures()),
            ("refused", stats.refused()),
        ];
        Self {
            name: name.to_owned(),
            sessions: store.local_len() as u64,
            evictions: store.local_evictions(),
            calls: Some(Calls { times: store.call_times(), failed }),
        }
    }
}

pub(super) fn visit(stores: &[StoreView], sink: &mut impl Sink) {
    let mut tell = |metric, value: fn(&StoreView) -> u64| {
        sink.begin(metric);
        stores.iter().for_each(|store| sink.value(&[("store", &store.name)], value(store)));
    };
    tell(catalog::STORE_SESSIONS, |store| store.sessions);
    tell(catalog::STORE_EVICTIONS, |store| store.evictions);
    sink.begin(catalog::STORE_CALL);
    let calls = || stores.iter().filter_map(|store| Some((&*store.name, store.calls.as_ref()?)));
    for (name, calls) in calls() {
        sink.histogram(&[("store", name)], &calls.times);
    }
    sink.begin(catalog::STORE_CALLS_FAILED);
    for (name, calls) in calls() {
        for (cause, count) in calls.failed {
            sink.value(&[("store", name), ("cause", cause)], count);
        }
    }
}
