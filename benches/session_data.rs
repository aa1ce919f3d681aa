//! Session data: the cost of a hit in the fenced cache over the local cache. The bar is 1 µs.

use std::{collections::HashMap, hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
};
use tower_sticky::{
    SessionInfo,
    session_data::{FencedCache, MemoryStore, Scope},
};

fn scope() -> Scope {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-sticky-outcome", "pinned"),
        ("x-sticky-backend", "shop-1"),
        ("x-sticky-session", "00000000000000ff"),
        ("x-sticky-epoch", "1800000000000"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    Scope::new(SessionInfo::from_headers(&headers).expect("well formed"))
}

fn record() -> Record {
    let data = HashMap::from([
        ("user".to_owned(), "0123456789abcdef".into()),
        ("cart".to_owned(), serde_json::json!(["apple", "bread", "cheese"])),
    ]);
    let expiry_date = (std::time::SystemTime::now() + Duration::from_secs(86_400)).into();
    Record { id: Id(7), data, expiry_date }
}

fn hits(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let (local, record) = (MemoryStore::new(), record());
    let cache = FencedCache::new(MemoryStore::new(), MemoryStore::new());
    let cache = cache.fresh_for(Duration::MAX);
    runtime.block_on(async {
        local.save(&record).await.expect("it is saved");
        scope().within(cache.save(&record)).await.expect("it is saved");
    });
    let mut group = c.benchmark_group("session data");
    // All in the scope of one request: only the load is measured.
    let within = |store: &dyn SessionStore, times: u64| {
        let began = tokio::time::Instant::now();
        let work = async {
            for _ in 0..times {
                let loaded = store.load(black_box(&Id(7))).await;
                assert!(black_box(loaded).is_ok_and(|found| found.is_some()));
            }
        };
        runtime.block_on(scope().within(work));
        began.elapsed()
    };
    group.bench_function("the local cache", |b| b.iter_custom(|times| within(&local, times)));
    group.bench_function("a hit in the fenced cache", |b| {
        b.iter_custom(|times| within(&cache, times));
    });
    group.finish();
}

criterion_group!(benches, hits);
criterion_main!(benches);
