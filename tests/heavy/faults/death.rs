//! The failure of one of ten backends with a hundred thousand sessions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Empty, Full};
use tower::{BoxError, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_sticky::{
    Backends, Health, KeyRing, NotSent, StickyLayer, StickyService, affinity::Cookie,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::client::cookie;

use crate::alone::alone_in_paused_time;

type Req = Request<Empty<Bytes>>;
type Node = BoxCloneSyncService<Req, Response<Full<Bytes>>, BoxError>;

const SESSIONS: usize = 100_000;
const NODES: u8 = 10;
const SLOW_START: Duration = Duration::from_secs(60);

/// A backend that answers with its number, or refuses.
fn node(number: u8, dead: Arc<AtomicBool>) -> Node {
    BoxCloneSyncService::new(service_fn(move |request: Req| {
        let dead = dead.load(Relaxed);
        async move {
            if dead {
                return Err(NotSent::new(request, "connection refused").into());
            }
            Ok(Response::new(Full::from(Bytes::copy_from_slice(&[number]))))
        }
    }))
}

/// A session in as little memory as possible.
struct Session {
    token: Box<str>,
    home: u8,
}

async fn ask(service: &StickyService<Node>, token: Option<&str>) -> (u8, Option<String>) {
    let mut request = Request::new(Empty::new());
    if let Some(token) = token {
        let value = format!("sid={token}").try_into().unwrap();
        request.headers_mut().insert(header::COOKIE, value);
    }
    let response = service.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200, "no request is lost");
    let token = cookie(&response, "sid");
    (response.into_body().collect().await.unwrap().to_bytes()[0], token)
}

/// The largest count divided by the mean, without the zeros.
fn unevenness(counts: &[usize]) -> f64 {
    let counts = counts.iter().filter(|count| **count > 0);
    let (max, sum) = counts.clone().fold((0, 0), |(max, sum), n| (max.max(*n), sum + n));
    max as f64 * counts.count() as f64 / sum as f64
}

/// How many of the new sessions go to the backend that had failed.
async fn new_at_the_returned(service: &StickyService<Node>, sessions: usize) -> usize {
    let mut returned = 0;
    for _ in 0..sessions {
        returned += usize::from(ask(service, None).await.0 == 0);
    }
    returned
}

#[test]
fn sessions_of_a_failed_backend_spread_evenly() {
    alone_in_paused_time(async {
        let dead = Arc::new(AtomicBool::new(false));
        let backends = Backends::from_iter((0..NODES).map(|number| {
            let dead = if number == 0 { dead.clone() } else { Arc::default() };
            (format!("backend-{number}"), node(number, dead))
        }));
        let cookie = Cookie::sealed("sid", KeyRing::generate().unwrap());
        let service = StickyLayer::new(backends.clone(), cookie)
            .strategy(RoundRobin::new())
            .health(Health::new().slow_start(SLOW_START))
            .into_service();
        let mut sessions = Vec::with_capacity(SESSIONS);
        let mut homes = [0; NODES as usize];
        for _ in 0..SESSIONS {
            let (home, token) = ask(&service, None).await;
            homes[usize::from(home)] += 1;
            sessions.push(Session { token: token.unwrap().into(), home });
        }
        assert_eq!(homes, [SESSIONS / 10; NODES as usize], "new sessions take turns");

        dead.store(true, Relaxed);
        let mut taken = [0; NODES as usize];
        for session in &mut sessions {
            let (home, token) = ask(&service, Some(&session.token)).await;
            assert_eq!(token.is_some(), session.home == 0, "a moved session receives a new token");
            if session.home == 0 {
                taken[usize::from(home)] += 1;
                *session = Session { token: token.unwrap().into(), home };
            } else {
                assert_eq!(home, session.home, "no other session moves");
            }
        }
        let unevenness = unevenness(&taken);
        println!("{} sessions moved, max/mean {unevenness:.3}: {taken:?}", homes[0]);
        assert_eq!(taken[0], 0);
        assert_eq!(taken.iter().sum::<usize>(), homes[0], "all of them have moved");
        assert!(taken[1..].iter().all(|taken| *taken > 0) && unevenness <= 1.25, "{taken:?}");

        // It returns and receives only new sessions, and few of them at first.
        dead.store(false, Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let first = new_at_the_returned(&service, 1_000).await;
        tokio::time::sleep(SLOW_START / 2).await;
        let half = new_at_the_returned(&service, 1_000).await;
        tokio::time::sleep(SLOW_START).await;
        let all = new_at_the_returned(&service, 1_000).await;
        println!("of 1000 new sessions it gets {first}, then {half}, then {all}");
        assert!((1..=30).contains(&first), "a tenth of its share: {first}");
        assert!((40..=80).contains(&half), "about half of it: {half}");
        assert_eq!(all, 100, "its whole share");
        for session in sessions.iter().step_by(100) {
            let (home, token) = ask(&service, Some(&session.token)).await;
            assert_eq!((home, token), (session.home, None), "no session returns");
        }
        let stats = backends.snapshot().stats;
        assert_eq!((stats.violations(), stats.moves()), (0, homes[0] as u64));
        assert!(backends.iter().all(|b| (b.in_flight, b.waiting) == (0, 0)));
    });
}
