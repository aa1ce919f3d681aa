//! Instructions, counted by Valgrind, so that the figures repeat on a noisy machine.
//!
//! Needs `valgrind` and the runner: `cargo install gungraun-runner --version 0.20.0`.

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use http::Request;
use tower_sticky::{StickySession, affinity::Table, strategy};
use tower_sticky_benches::{
    OutcomesIn, ReadyBackend, Sticky, call, enter_runtime, keyed, pin, placing, plain,
    ready_backend, request, request_of_user, routed, sealed, timed,
};

/// A service after some requests, and a request of one of its sessions.
fn known(mut service: Sticky) -> (Sticky, Request<()>) {
    enter_runtime();
    let request = request(&pin(&service));
    drop(call(&mut service, request.clone()));
    (service, request)
}

/// A service after some requests.
fn used(service: Sticky) -> Sticky {
    known(service).0
}

fn long(others: usize) -> (Sticky, Request<()>) {
    let others: String = (0..others).map(|i| format!("name{i}=0123456789abcdef; ")).collect();
    let (service, _) = known(plain(16, OutcomesIn::Counters));
    (service, request(&format!("{others}SERVER_ID=b1")))
}

// The baselines: a clone of the backend, called directly with the request of each kind of session. Requests of
// a session handle have no header.
#[library_benchmark]
#[bench::plain((ready_backend(), request("SERVER_ID=b1")))]
#[bench::sealed((ready_backend(), request(&"x".repeat(100))))]
#[bench::route((ready_backend(), request(&routed(2, false).1)))]
#[bench::key((ready_backend(), request_of_user()))]
#[bench::session((ready_backend(), Request::new(())))]
fn direct((backend, request): (ReadyBackend, Request<()>)) -> (ReadyBackend, impl Sized) {
    let response = call(&mut backend.clone(), black_box(request));
    (backend, response)
}

#[library_benchmark]
#[bench::plain_2(known(plain(2, OutcomesIn::Counters)))]
#[bench::plain_16(known(plain(16, OutcomesIn::Counters)))]
#[bench::plain_256(known(plain(256, OutcomesIn::Counters)))]
#[bench::plain_10000(known(plain(10_000, OutcomesIn::Counters)))]
#[bench::plain_16_extensions(known(plain(16, OutcomesIn::Extensions)))]
#[bench::sealed_2(known(sealed(2, OutcomesIn::Counters)))]
#[bench::sealed_16(known(sealed(16, OutcomesIn::Counters)))]
#[bench::sealed_256(known(sealed(256, OutcomesIn::Counters)))]
#[bench::sealed_10000(known(sealed(10_000, OutcomesIn::Counters)))]
#[bench::sealed_16_timeouts(known(timed(16)))]
#[bench::cookies_10(long(10))]
#[bench::cookies_100(long(100))]
fn pinned((mut service, request): (Sticky, Request<()>)) -> (Sticky, impl Sized) {
    let response = call(&mut service, black_box(request));
    (service, response)
}

fn of_user(mut service: Sticky) -> (Sticky, Request<()>) {
    enter_runtime();
    drop(call(&mut service, request_of_user()));
    (service, request_of_user())
}

/// A service by routes after some requests, and a request whose id names `b1`.
fn of_route(count: usize, is_sealed: bool) -> (Sticky, Request<()>) {
    enter_runtime();
    let (mut service, cookie) = routed(count, is_sealed);
    let request = request(&cookie);
    drop(call(&mut service, request.clone()));
    (service, request)
}

#[library_benchmark]
#[bench::plain_2(of_route(2, false))]
#[bench::plain_10000(of_route(10_000, false))]
#[bench::sealed_2(of_route(2, true))]
#[bench::sealed_10000(of_route(10_000, true))]
fn by_route((mut service, request): (Sticky, Request<()>)) -> (Sticky, impl Sized) {
    let response = call(&mut service, black_box(request));
    (service, response)
}

#[library_benchmark]
#[bench::rank_2(of_user(keyed(2, None)))]
#[bench::rank_16(of_user(keyed(16, None)))]
#[bench::rank_256(of_user(keyed(256, None)))]
#[bench::rank_10000(of_user(keyed(10_000, None)))]
#[bench::maglev_16(of_user(keyed(16, Some(Table::Small))))]
#[bench::maglev_256(of_user(keyed(256, Some(Table::Small))))]
#[bench::maglev_10000(of_user(keyed(10_000, Some(Table::Small))))]
fn by_key((mut service, request): (Sticky, Request<()>)) -> (Sticky, impl Sized) {
    let response = call(&mut service, black_box(request));
    (service, response)
}

/// A client session with a pin.
fn own(mut session: StickySession<ReadyBackend>) -> StickySession<ReadyBackend> {
    enter_runtime();
    drop(call(&mut session, Request::new(())));
    session
}

#[library_benchmark]
#[bench::session_2(own(keyed(2, None).session()))]
#[bench::session_16(own(keyed(16, None).session()))]
#[bench::session_10000(own(keyed(10_000, None).session()))]
fn held(mut session: StickySession<ReadyBackend>) -> (StickySession<ReadyBackend>, impl Sized) {
    let response = call(&mut session, black_box(Request::new(())));
    (session, response)
}

#[library_benchmark]
#[bench::round_robin(used(placing(16, strategy::RoundRobin::new())))]
#[bench::least_connections(used(placing(16, strategy::LeastConnections::new())))]
#[bench::random(used(placing(16, strategy::Random::seeded(1))))]
#[bench::p2c(used(placing(16, strategy::P2c::seeded(1))))]
#[bench::peak_ewma(used(placing(16, strategy::PeakEwma::new().seeded(1))))]
fn new_session(mut service: Sticky) -> (Sticky, impl Sized) {
    let response = call(&mut service, black_box(Request::new(())));
    (service, response)
}

library_benchmark_group!(
    name = group,
    benchmarks = [direct, pinned, by_route, by_key, held, new_session]
);
main!(library_benchmark_groups = group);
