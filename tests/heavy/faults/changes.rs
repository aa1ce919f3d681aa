//! A thousand changes of membership a second, under load.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};
use tower_sticky::{BackendOptions, Backends, Mode, proxy::Upstream};

use crate::{alone::alone, setup::Setup, traffic::Traffic};

const CHANGES: usize = 1_000;
const CLIENTS: usize = 8;

/// `a` always stays; all other backends join and leave.
fn change(backends: &Backends<Upstream>, [a, b, c, d]: &[Upstream; 4], number: usize) {
    let done = match number % 14 {
        0 => backends.insert("x", b.clone()),
        1 => backends.set_mode("b", Mode::Draining),
        2 => backends.replace("x", c.clone()).map(drop),
        3 => backends.set_weight("x", 5),
        4 => backends.remove("c").map(drop),
        5 => backends.set_mode("d", Mode::Disabled),
        6 => backends.insert_with("y", d.clone(), BackendOptions::new().weight(2)),
        7 => backends.replace("a", a.clone()).map(drop),
        8 => backends.set_mode("b", Mode::Active),
        9 => backends.remove("x").map(drop),
        10 => backends.insert("c", c.clone()),
        11 => backends.set_mode("d", Mode::Active),
        12 => backends.set_weight("a", 1 + number as u32 % 7),
        _ => backends.remove("y").map(drop),
    };
    done.unwrap();
}

#[test]
fn a_thousand_changes_a_second_lose_no_request() {
    alone(async {
        let setup = Setup::new(&["a", "b", "c", "d"]).await;
        let upstreams: Vec<_> = setup.processes.iter().map(|process| process.upstream()).collect();
        let upstreams: [Upstream; 4] = upstreams.try_into().unwrap();
        let traffic = Traffic::new();
        for _ in 0..CLIENTS {
            let mut session = setup.session();
            session.get("/").await;
            traffic.start(session);
        }
        // Responses per second without changes, for the printed figures.
        traffic.more(100).await;
        let (start, count) = (Instant::now(), traffic.count());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let quiet = (traffic.count() - count) as f64 / start.elapsed().as_secs_f64();

        let (start, count) = (Instant::now(), traffic.count());
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..CHANGES {
            pace.tick().await;
            change(&setup.backends, &upstreams, number);
        }
        let took = start.elapsed().as_secs_f64();
        let restless = (traffic.count() - count) as f64 / took;
        let changes = CHANGES as f64 / took;
        println!("{quiet:.0} requests/s, and {restless:.0} during {changes:.0} changes/s");

        let mut moves = 0;
        for record in traffic.end().await.into_values().flatten() {
            assert_eq!(record.answer.status, 200, "a request was lost: {record:?}");
            moves += u64::from(record.answer.verdict == "moved");
        }
        assert!(moves > 0, "sessions of disabled backends move");
        drop(upstreams);
        setup.end().await;
    });
}
