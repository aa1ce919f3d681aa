//! The drain of a backend with a thousand WebSockets.

use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tower_sticky::DrainEnd;
use tower_sticky_heavy_tests::{FOREVER, in_time, until};

use crate::{
    alone::alone,
    setup::Setup,
    socket::{End, Socket},
};

const SOCKETS: usize = 1_000;

/// Raises the limit of descriptors of this process and its children.
fn allow_descriptors(count: u64) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < count) {
        let enough = maximum.is_none_or(|maximum| maximum >= count);
        assert!(enough, "this row needs {count} descriptors: raise the hard limit (ulimit -Hn)");
        setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum }).unwrap();
    }
}

#[test]
fn a_drain_closes_a_thousand_sockets() {
    // This process has the clients' ends and both of the gateway's; the backend has one.
    allow_descriptors(3 * SOCKETS as u64 + 500);
    alone(async {
        let mut setup = Setup::new(&["a", "b"]).await;
        setup.backends.set_weight("b", 0).unwrap();
        let (mut polite, mut stubborn) = (Vec::new(), Vec::new());
        // No more at once than fit into the backlog of a listener.
        for _ in 0..SOCKETS / 100 {
            let open = |path: &'static str| async move {
                let mut token = None;
                let mut socket = Socket::open(setup.gateway.addr, path, &mut token).await;
                socket.ask("hello").await.unwrap();
                assert_eq!(socket.server, "a");
                (socket, token)
            };
            polite.extend(join_all((0..50).map(|_| open("/polite"))).await);
            stubborn.extend(join_all((0..50).map(|_| open("/stubborn"))).await);
        }
        setup.backends.set_weight("b", 1).unwrap();
        let status = |id: &str| setup.backends.get(id).unwrap();
        assert_eq!((status("a").in_flight, status("a").streams), (SOCKETS, SOCKETS));

        let mut signal = setup.backends.drain_signal("a").unwrap();
        let drain = setup.backends.drain("a").deadline(FOREVER).start().unwrap();
        in_time("the backends with sessions are reported", signal.begun()).await;
        setup.processes[0].close_sockets();
        let (polite, mut tokens): (Vec<_>, Vec<_>) = polite.into_iter().unzip();
        for end in join_all(polite.into_iter().map(Socket::end)).await {
            assert_eq!(end, End::ComeAgain, "a clean end");
        }
        until("half of them close", || status("a").streams == SOCKETS / 2).await;
        for (socket, _) in &mut stubborn {
            socket.ask("still here?").await.unwrap();
        }
        // No other socket will close, so the deadline is set to now.
        let report = setup.backends.drain("a").deadline(Duration::ZERO).await.unwrap();
        assert_eq!(drain.ended().await.end, DrainEnd::Cancelled, "another took its place");
        assert_eq!((report.end, report.streams_cut), (DrainEnd::Deadline, SOCKETS / 2));
        in_time("the deadline is reported", signal.over()).await;
        for (socket, token) in stubborn {
            let end = socket.end().await;
            assert!(matches!(end, End::Broken(_)), "no clean end: {end:?}");
            tokens.push(token);
        }
        until("nothing is left", || (status("a").in_flight, status("a").streams) == (0, 0)).await;
        // They reconnect, to other backends.
        for mut token in tokens.into_iter().step_by(100) {
            let mut socket = Socket::open(setup.gateway.addr, "/polite", &mut token).await;
            let why = (&*socket.verdict, &*socket.server, &*socket.reason);
            assert_eq!(why, ("moved", "b", "draining"));
            socket.ask("hello").await.unwrap();
            socket.close().await;
        }
        setup.end().await;
    });
}
