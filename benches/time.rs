//! The time of a pinned request, a new session and a long cookie header.
//!
//! Every figure holds the clone of the sample request and the drop of the response. The overhead of
//! a pinned request is its figure less that of `pinned/direct`, which clones the backend and calls the
//! clone with the same request, as the service does inside.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::Request;
use tower_sticky::{affinity::Table, strategy};
use tower_sticky_benches::{
    OutcomesIn, application, beside, call, enter_runtime, envelope, keyed, learned,
    learned_on_redis, pin, placing, plain, ready_backend, request, request_of_user, routed, sealed,
    timed,
};

fn pinned(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("pinned");
    let backend = ready_backend();
    // The baseline: a clone of the backend, called directly with the same request.
    for (name, cookie) in [("plain", "SERVER_ID=b1"), ("sealed", &*"x".repeat(89))] {
        let sample = request(cookie);
        group.bench_function(BenchmarkId::new("direct", name), |b| {
            b.iter(|| call(&mut backend.clone(), black_box(&sample).clone()));
        });
    }
    for count in [2, 16, 256, 10_000] {
        for outcomes in [OutcomesIn::Counters, OutcomesIn::Extensions] {
            for (format, mut service) in
                [("plain", plain(count, outcomes)), ("sealed", sealed(count, outcomes))]
            {
                let sample = request(&pin(&service));
                let id = BenchmarkId::new(format!("{format}/{outcomes:?}"), count);
                group.bench_function(id, |b| {
                    b.iter(|| call(&mut service, black_box(&sample).clone()));
                });
            }
        }
    }
    let mut service = timed(16);
    let sample = request(&pin(&service));
    group.bench_function("sealed, with timeouts/16", |b| {
        b.iter(|| call(&mut service, black_box(&sample).clone()));
    });
    group.finish();
}

fn by_key(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("by key");
    let (backend, sample) = (ready_backend(), request_of_user());
    group.bench_function("direct", |b| {
        b.iter(|| call(&mut backend.clone(), black_box(&sample).clone()));
    });
    for count in [2, 16, 256, 10_000] {
        for (name, table) in [("rank", None), ("maglev", Some(Table::Small))] {
            let mut service = keyed(count, table);
            drop(call(&mut service, sample.clone()));
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| call(&mut service, black_box(&sample).clone()));
            });
        }
    }
    group.finish();
}

/// Ids that name their backend. The bars are 150 ns over the direct call for plain routes, 250 ns for sealed ones.
fn by_route(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("by route");
    let backend = ready_backend();
    let sample = request(&routed(2, false).1);
    group.bench_function("direct", |b| {
        b.iter(|| call(&mut backend.clone(), black_box(&sample).clone()));
    });
    for count in [2, 16, 10_000] {
        for (name, is_sealed) in [("plain", false), ("sealed", true)] {
            let (mut service, cookie) = routed(count, is_sealed);
            let sample = request(&cookie);
            drop(call(&mut service, sample.clone()));
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| call(&mut service, black_box(&sample).clone()));
            });
        }
    }
    group.finish();
}

/// A client session. The bar is 200 ns over the backend's clone, called directly.
fn held(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("held");
    let backend = ready_backend();
    group.bench_function("direct", |b| b.iter(|| call(&mut backend.clone(), Request::new(()))));
    for count in [2, 16, 10_000] {
        let mut session = keyed(count, None).session();
        drop(call(&mut session, Request::new(())));
        group.bench_function(BenchmarkId::new("session", count), |b| {
            b.iter(|| call(&mut session, Request::new(())));
        });
    }
    group.finish();
}

/// The application's own ids. The bar of a learned one is 150 ns over the plain pin, also when it is a
/// local copy of what is on Redis.
fn own_ids(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("own ids");
    let other = "SERVER_ID=b1; JSESSIONID=0123456789ABCDEF0123456789ABCDEF";
    let (learned, on_redis, envelope) = (learned(16), learned_on_redis(16), envelope(16));
    let (backend, sample) = (application(), request(&pin(&learned)));
    group.bench_function("direct", |b| {
        b.iter(|| call(&mut backend.clone(), black_box(&sample).clone()));
    });
    for (name, mut service, cookie) in [
        ("plain pin beside it", beside(16), other.to_owned()),
        ("learned", learned.clone(), pin(&learned)),
        ("learned, on Redis", on_redis.clone(), pin(&on_redis)),
        ("envelope", envelope.clone(), pin(&envelope)),
    ] {
        let sample = request(&cookie);
        group.bench_function(name, |b| b.iter(|| call(&mut service, black_box(&sample).clone())));
    }
    group.finish();
}

fn new_session(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("new session");
    for count in [2, 16, 256, 10_000] {
        let services = [
            ("round robin", placing(count, strategy::RoundRobin::new())),
            ("least connections", placing(count, strategy::LeastConnections::new())),
            ("least sessions", placing(count, strategy::LeastSessions::seeded(1))),
            ("random", placing(count, strategy::Random::seeded(1))),
            ("p2c", placing(count, strategy::P2c::seeded(1))),
            ("peak ewma", placing(count, strategy::PeakEwma::new().seeded(1))),
        ];
        for (name, mut service) in services {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| call(&mut service, black_box(Request::new(()))));
            });
        }
    }
    for (name, mut service) in [
        ("plain token", plain(16, OutcomesIn::Counters)),
        ("sealed token", sealed(16, OutcomesIn::Counters)),
    ] {
        group.bench_function(BenchmarkId::new(name, 16), |b| {
            b.iter(|| call(&mut service, black_box(Request::new(()))));
        });
    }
    group.finish();
}

fn long_cookie(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("cookie header");
    let mut service = plain(16, OutcomesIn::Counters);
    for others in [0, 10, 100] {
        let mut cookie = String::new();
        for i in 0..others {
            cookie.push_str(&format!("name{i}=0123456789abcdef0123456789abcdef; "));
        }
        cookie.push_str("SERVER_ID=b1");
        let sample = request(&cookie);
        let id = BenchmarkId::new("pinned, bytes of cookies", cookie.len());
        group.bench_function(id, |b| {
            b.iter(|| call(&mut service, black_box(&sample).clone()));
        });
    }
    group.finish();
}

/// The metrics of a pool in Prometheus' text format, after a request. The bar is 100 ms for 2,000 backends.
/// What recording costs is the difference of `pinned` with and without this package's feature `metrics`.
#[cfg(feature = "metrics")]
fn render(c: &mut Criterion) {
    enter_runtime();
    let mut group = c.benchmark_group("metrics");
    for count in [2, 2_000, 10_000] {
        let mut service = sealed(count, OutcomesIn::Counters);
        drop(call(&mut service, Request::new(())));
        group.bench_function(BenchmarkId::new("render", count), |b| {
            b.iter(|| tower_sticky::metrics::render(service.backends()));
        });
    }
    group.finish();
}

#[cfg(not(feature = "metrics"))]
fn render(_: &mut Criterion) {}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1000));
    targets = pinned, by_key, by_route, held, own_ids, new_session, long_cookie, render
}
criterion_main!(benches);
