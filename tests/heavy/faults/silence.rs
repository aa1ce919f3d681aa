//! Timeouts: connections that are not answered, stopped processes, and requests that take for ever.
//! Also slow backends, and backends that fail fast.

use std::time::Duration;

use http::Request;
use rustix::process::Signal;
use tokio::net::{TcpSocket, TcpStream};
use tower_sticky::{Health, proxy::Upstream, strategy::LeastConnections};
use tower_sticky_heavy_tests::{FOREVER, until};

use crate::{
    alone::{alone, timed},
    session::{HOLD, Session},
    setup::Setup,
};

const MS: Duration = Duration::from_millis(1);

/// An address where connections are neither accepted nor refused.
struct BlackHole {
    url: String,
    _listener: tokio::net::TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn new() -> Self {
        // A listener whose backlog is full does not answer handshakes.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(socket) = tokio::time::timeout(200 * MS, TcpStream::connect(addr)).await {
            queued.push(socket.unwrap());
        }
        Self { url: format!("http://{addr}"), _listener: listener, _queued: queued }
    }

    fn upstream(&self, connect_timeout: Duration) -> Upstream {
        Upstream::new(&self.url).unwrap().connect_timeout(connect_timeout)
    }
}

#[test]
fn an_unanswered_connection_times_out_once() {
    alone(async {
        let limit = 200 * MS;
        let setup = Setup::new(&["a", "b", "c"]).await;
        let mut sessions = setup.one_session_each().await;
        let hole = BlackHole::new().await;
        drop(setup.backends.replace("a", hole.upstream(limit)).unwrap());
        let (answer, took) = timed(sessions[0].post("a body")).await;
        assert_eq!((&*answer.verdict, &*answer.reason), ("moved", "connect-failed"));
        assert!(took >= limit, "it was given its time: {took:?}");
        let tried = setup.backends.get("a").unwrap().requests;
        let home = answer.server;
        // The next requests do not try it, neither of the same session nor of new ones.
        assert_eq!(sessions[0].get("/").await.why(), ("pinned", &*home, ""));
        for _ in 0..6 {
            assert_eq!(setup.session().get("/").await.verdict, "assigned");
        }
        assert_eq!(setup.backends.get("a").unwrap().requests, tried);
        setup.end().await;
    });
}

#[test]
fn all_waits_of_a_request_have_one_bound() {
    alone(async {
        let setup = Setup::with(&["a", "b", "c"], |layer| layer.ready_timeout(100 * MS)).await;
        let mut sessions = setup.one_session_each().await;
        let hole = BlackHole::new().await;
        for id in ["a", "b"] {
            drop(setup.backends.replace(id, hole.upstream(300 * MS)).unwrap());
        }
        // Tried after `b`.
        setup.backends.set_backup("c", true).unwrap();
        let (answer, took) = timed(sessions[0].get("/")).await;
        assert_eq!((answer.status.as_u16(), answer.token), (503, None), "the pin stays");
        // The time counts from the first failure, and the second one took too long.
        assert!(took >= 600 * MS, "each was given its time: {took:?}");
        let tried: Vec<_> = setup.backends.iter().map(|backend| backend.requests).collect();
        assert_eq!(tried, [2, 2, 1], "no further one is tried");
        let answer = sessions[2].get("/").await;
        assert_eq!(answer.why(), ("pinned", "c", ""), "ready backends are not delayed");
        setup.end().await;
    });
}

/// Replaces the upstream of `a` by one that waits 200 ms for a response. Returns the previous one.
fn make_a_impatient(setup: &Setup) -> Upstream {
    let impatient = setup.processes[0].upstream().response_timeout(200 * MS);
    setup.backends.replace("a", impatient).unwrap()
}

/// Two backends with a session each. `a` waits 200 ms for a response; its previous upstream is the last.
async fn impatient_setup() -> (Setup, Vec<Session>, Upstream) {
    let setup = Setup::new(&["a", "b"]).await.without_repeats();
    let sessions = setup.one_session_each().await;
    let patient = make_a_impatient(&setup);
    (setup, sessions, patient)
}

#[test]
fn a_request_without_an_answer_ends_with_504_and_is_not_repeated() {
    alone(async {
        let (setup, mut sessions, patient) = impatient_setup().await;
        for (request, body) in [(Request::get("/"), ""), (Request::post("/"), "a body")] {
            let (answer, took) = timed(sessions[0].send(request.header(HOLD, "a"), body)).await;
            let answer = answer.unwrap();
            assert_eq!((answer.status.as_u16(), answer.token), (504, None));
            assert!(took >= 200 * MS, "it was given its time: {took:?}");
            assert_eq!(setup.log.of(answer.number), ["a"]);
        }
        drop(setup.backends.replace("a", patient).unwrap());
        assert_eq!(sessions[0].get("/").await.why(), ("pinned", "a", ""), "the session stays");
        setup.end().await;
    });
}

#[test]
fn a_stopped_process_executes_nothing_twice() {
    alone(async {
        let (setup, mut sessions, patient) = impatient_setup().await;
        // The system still accepts connections for it, but the process does not read them.
        setup.processes[0].signal(Signal::STOP);
        let mut numbers = Vec::new();
        for _ in 0..2 {
            let answer = sessions[0].get("/").await;
            assert_eq!(answer.status, 504);
            numbers.push(answer.number);
            let answer = sessions[0].post("a body").await;
            assert_eq!(answer.status, 504);
            numbers.push(answer.number);
        }
        setup.processes[0].signal(Signal::CONT);
        drop(setup.backends.replace("a", patient).unwrap());
        let answer = sessions[0].post("a body").await;
        assert_eq!(answer.why(), ("pinned", "a", ""), "the session was not moved");
        for number in numbers {
            assert!(setup.log.of(number).len() <= 1, "late, and once at most");
        }
        setup.end().await;
    });
}

#[test]
fn a_slow_backend_keeps_its_sessions_and_gets_no_new_ones() {
    alone(async {
        let least = LeastConnections::new();
        let setup = Setup::with(&["a", "b"], |layer| layer.strategy(least)).await;
        let mut at_a = setup.session();
        while at_a.token.is_none() {
            let mut session = setup.session();
            if session.get("/").await.server == "a" {
                at_a = session;
            }
        }
        let slow = (0..5).map(|_| {
            let mut session = at_a.beside(setup.gateway.addr);
            tokio::spawn(async move {
                let _ = session.send(Request::get("/").header(HOLD, "a"), "").await;
            })
        });
        let slow: Vec<_> = slow.collect();
        let at_work = || setup.backends.get("a").unwrap().in_flight == 5;
        until("a has something to do", at_work).await;
        for _ in 0..20 {
            assert_eq!(setup.session().post("x").await.why(), ("assigned", "b", ""));
            assert_eq!(at_a.post("x").await.why(), ("pinned", "a", ""));
        }
        // The clients disconnect.
        for request in slow {
            request.abort();
            let _ = request.await;
        }
        setup.end().await;
    });
}

#[test]
fn a_fast_failing_backend_does_not_attract_new_sessions() {
    alone(async {
        // A backend that fails at once has the least load, and would attract all new sessions.
        let health = Health::new().consecutive_failures(3).ejection(10 * FOREVER);
        let mut setup = Setup::with(&["a", "b"], |layer| {
            layer.strategy(LeastConnections::new()).health(health)
        })
        .await;
        let mut sessions = Vec::new();
        for _ in 0..20 {
            let mut session = setup.session();
            session.get("/").await;
            sessions.push(session);
        }
        // `b` has requests in flight, and `a` begins to fail.
        let mut at_b = setup.session();
        while at_b.get("/").await.server != "b" {
            at_b = setup.session();
        }
        let slow = tokio::spawn(async move {
            let _ = at_b.send(Request::get("/").header(HOLD, "b"), "").await;
        });
        until("b is at work", || setup.backends.get("b").unwrap().in_flight == 1).await;
        setup.processes[0].kill();
        setup.processes[0].restart_failing().await;
        drop(setup.backends.replace("a", setup.processes[0].upstream()).unwrap());
        let (mut failed, mut served) = (0, 0);
        for _ in 0..40 {
            let answer = setup.session().get("/").await;
            match answer.status.as_u16() {
                500 => failed += 1,
                200 => served += 1,
                _ => panic!("{answer:?}"),
            }
        }
        assert_eq!((failed, served), (3, 37), "three failures in a row, and it is out");
        // Its sessions move; those of the other backend stay.
        for session in &mut sessions {
            let answer = session.post("a body").await;
            assert_eq!((answer.status.as_u16(), &*answer.server), (200, "b"), "{answer:?}");
        }
        slow.abort();
        let _ = slow.await;
        setup.end().await;
    });
}
