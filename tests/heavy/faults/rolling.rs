//! Rolling restarts under load, twenty times: no request is lost, and every session is kept that can be.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use http::Request;
use rustix::process::Signal;
use tokio::sync::RwLock;
use tower_sticky::{Backends, DrainEnd, Mode, proxy::Upstream};
use tower_sticky_heavy_tests::{FOREVER, backend_process::Process, in_time, until};

use crate::{
    alone::alone,
    session::Session,
    setup::Setup,
    socket::{End, Socket},
    traffic::{Record, Traffic},
};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const CLIENTS: usize = 6;
const SOCKETS: usize = 4;

/// How often all are restarted: 20 times, or as often as the environment says.
fn rounds() -> usize {
    std::env::var("ROLLING_RESTARTS").map_or(20, |rounds| rounds.parse().unwrap())
}

/// The clients of WebSockets.
struct Room {
    backends: Backends<Upstream>,
    gateway: std::net::SocketAddr,
    /// Read-locked while a socket opens, write-locked when a drain begins, so that no socket opens that
    /// misses the request to close.
    doors: RwLock<()>,
    over: AtomicBool,
}

/// The sockets of one client, and how they ended.
#[derive(Debug, Default)]
struct Visits {
    opened: usize,
    moved: usize,
    said: usize,
}

impl Room {
    /// Sends messages all the time, and reconnects when asked to, but not while its backend drains.
    async fn visit(self: Arc<Self>) -> Visits {
        let (mut visits, mut token, mut home) = (Visits::default(), None, String::new());
        while !self.over.load(Relaxed) {
            let open = self.doors.read().await;
            if self.backends.get(&home).is_some_and(|backend| backend.mode == Mode::Draining) {
                drop(open);
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let mut socket = Socket::open(self.gateway, "/polite", &mut token).await;
            drop(open);
            match (&*socket.verdict, &*socket.reason) {
                ("assigned", "") if home.is_empty() => {}
                ("pinned", "") => assert_eq!(socket.server, home, "it was kept"),
                ("moved", "draining") => visits.moved += 1,
                other => panic!("{other:?} from {home:?} to {:?}", socket.server),
            }
            home.clone_from(&socket.server);
            visits.opened += 1;
            loop {
                if self.over.load(Relaxed) {
                    socket.close().await;
                    break;
                }
                match socket.ask(&format!("{} at {home}", visits.said)).await {
                    Ok(()) => visits.said += 1,
                    Err(end) => {
                        assert_eq!(end, End::ComeAgain, "a clean end");
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        visits
    }
}

/// Restarts one backend. `resting` is a session of it that has nothing to do meanwhile but one request,
/// which is answered only when its process is told to stop.
async fn restart(setup: &mut Setup, room: &Room, index: usize, resting: &mut Session) {
    let name = NAMES[index];
    let number = crate::session::number(&http::Method::POST);
    let request = Request::post("/until-stopped").header("x-number", number);
    let mut slow = resting.beside(setup.gateway.addr);
    let slow = tokio::spawn(async move {
        let request = request.body("a body".into()).unwrap();
        slow.send_numbered(request, number).await.unwrap()
    });
    until("the slow request is there", || setup.log.of(number) == [name]).await;

    let door = room.doors.write().await;
    let drain = setup.backends.drain(name).deadline(FOREVER).start().unwrap();
    drop(door);
    setup.processes[index].close_sockets();
    let status = || setup.backends.get(name).unwrap();
    until("all sockets have sent a close frame", || status().streams == 0).await;
    // Its sessions never end by themselves, so the deadline is set to now.
    let report = setup.backends.drain(name).deadline(Duration::ZERO).await.unwrap();
    assert_eq!(drain.ended().await.end, DrainEnd::Cancelled);
    assert_eq!((report.end, report.streams_cut), (DrainEnd::Deadline, 0));
    until("only the slow one is left", || status().in_flight == 1).await;

    setup.processes[index].signal(Signal::TERM);
    let answer = in_time("the slow request is answered", slow).await.unwrap();
    assert_eq!(answer.why(), ("pinned", name, ""), "what was in flight is finished");
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, &b"a body"[..]));
    let ended = setup.processes[index].ended().await;
    assert!(ended.success(), "it stopped by itself: {ended}");

    setup.processes[index] = Process::start(name, &setup.log).await;
    setup.backends.replace(name, setup.processes[index].upstream()).unwrap();
    setup.backends.set_mode(name, Mode::Active).unwrap();
    let answer = resting.get("/").await;
    assert_eq!(answer.why(), ("pinned", name, ""), "its backend is back, so it is kept");
}

/// What must be true of a session that never rests and began at `home`; tells how often it has moved.
fn check(session: usize, home: &str, records: &[Record]) -> usize {
    let (mut home, mut moves) = (home, 0);
    for record in records {
        let answer = &record.answer;
        assert_eq!(answer.status, 200, "session {session}: a request was lost: {record:?}");
        match (&*answer.verdict, &*answer.reason) {
            ("pinned", "") => assert_eq!(answer.server, home, "session {session}: {record:?}"),
            ("moved", "draining") => {
                let [begun, ended] = record.steps;
                let restarted = (begun..=ended).any(|step| NAMES[step % NAMES.len()] == home);
                assert!(restarted, "session {session} had to leave {home:?}: {record:?}");
                moves += 1;
            }
            _ => panic!("session {session}, which was with {home:?}: {record:?}"),
        }
        home = &answer.server;
    }
    moves
}

#[test]
fn rolling_restarts_lose_no_request_and_no_session() {
    alone(async {
        let mut setup = Setup::new(&NAMES).await.without_repeats();
        let mut resting = setup.one_session_each().await;
        let traffic = Traffic::new();
        let mut homes = Vec::new();
        for _ in 0..CLIENTS {
            let mut session = setup.session();
            homes.push(session.get("/").await.server);
            traffic.start(session);
        }
        let room = Arc::new(Room {
            backends: setup.backends.clone(),
            gateway: setup.gateway.addr,
            doors: RwLock::default(),
            over: AtomicBool::new(false),
        });
        let visitors: Vec<_> = (0..SOCKETS).map(|_| tokio::spawn(room.clone().visit())).collect();
        let restarts = rounds() * NAMES.len();
        for step in 0..restarts {
            traffic.step.store(step, SeqCst);
            // Waits for some requests between two restarts.
            traffic.more(2 * CLIENTS).await;
            let index = step % NAMES.len();
            restart(&mut setup, &room, index, &mut resting[index]).await;
        }
        let (mut requests, mut moves) = (0, 0);
        for (session, records) in traffic.end().await {
            moves += check(session, &homes[session], &records);
            requests += records.len();
        }
        room.over.store(true, Relaxed);
        let mut sockets = Visits::default();
        for visitor in visitors {
            let visits = in_time("the sockets close", visitor).await.expect("no socket is lost");
            sockets.opened += visits.opened;
            sockets.moved += visits.moved;
            sockets.said += visits.said;
        }
        drop(room);
        println!(
            "{restarts} restarts, {requests} requests, {} sockets with {} messages: 0 failed; {} moves",
            sockets.opened,
            sockets.said,
            moves + sockets.moved
        );
        assert_eq!(setup.backends.snapshot().stats.moves(), (moves + sockets.moved) as u64);
        setup.end().await;
    });
}
