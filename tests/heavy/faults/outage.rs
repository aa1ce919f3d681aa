//! Outages: of one flapping backend, of most of them, and of all of them.

use std::{collections::BTreeSet, time::Duration};

use tower_sticky::{Backends, State, proxy::Upstream};
use tower_sticky_heavy_tests::{backend_process::Process, in_time, until};

use crate::{
    alone::alone,
    session::Session,
    setup::{Setup, hopeful},
    traffic::{Record, Traffic},
};

/// Sends requests without a session until all backends of these are up.
async fn back(setup: &Setup, ids: &[&str]) {
    let down = |backends: &Backends<Upstream>| {
        ids.iter().any(|id| backends.get(id).unwrap().state != State::Ready)
    };
    let wait = async {
        while down(&setup.backends) {
            // Each of them may be the trial of an ejected backend.
            setup.session().get("/").await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time("they are back", wait).await;
}

#[test]
fn a_flapping_backend_moves_each_session_once() {
    const OUTAGES: usize = 5;
    alone(async {
        let mut setup = Setup::with(&["a", "b", "c"], hopeful).await;
        let traffic = Traffic::new();
        let mut at_a = 0;
        for _ in 0..OUTAGES {
            // Six more sessions, a third of them on the flapping backend.
            for _ in 0..6 {
                let mut session = setup.session();
                at_a += u64::from(session.get("/").await.server == "a");
                traffic.start(session);
            }
            traffic.more(60).await;
            setup.processes[0].kill();
            let moves = || setup.backends.snapshot().stats.moves();
            until("those that are there move", || moves() == at_a).await;
            traffic.more(60).await;
            setup.processes[0].restart().await;
            back(&setup, &["a"]).await;
        }
        let (mut moves, mut lost) = (0, 0);
        for (session, records) in traffic.end().await {
            let has_moved = |record: &Record| record.answer.verdict == "moved";
            let moved = records.iter().filter(|record| has_moved(record)).count();
            assert!(moved <= 1, "session {session} is not sent to and fro: {records:#?}");
            moves += moved as u64;
            for record in &records {
                match record.answer.status.as_u16() {
                    200 => {}
                    502 if record.posts => lost += 1,
                    _ => panic!("session {session}: a request was lost: {record:?}"),
                }
            }
            let after = records.iter().skip_while(|record| !has_moved(record));
            let homes: BTreeSet<_> = after.map(|record| &*record.answer.server).collect();
            assert!(homes.len() <= 1 && !homes.contains("a"), "session {session}: {homes:?}");
        }
        assert!(at_a >= OUTAGES as u64, "there was something to lose each time: {at_a}");
        assert_eq!(moves, at_a, "those that were there have moved, and no others");
        assert_eq!(setup.backends.snapshot().stats.moves(), moves);
        println!("{OUTAGES} outages: {moves} sessions moved, {lost} POSTs were lost with a");
        assert!(lost <= at_a, "at most the one that each session had under way: {lost}");
        setup.end().await;
    });
}

/// All three backends, with one session each, are down and known to be suspects.
async fn all_down(mut setup: Setup) -> (Setup, Vec<Session>) {
    let sessions = setup.one_session_each().await;
    setup.processes.iter_mut().for_each(Process::kill);
    let mut visitor = setup.session();
    loop {
        let answer = visitor.get("/").await;
        if answer.status == 503 {
            return (setup, sessions);
        }
        assert_eq!(answer.status, 502, "its connection was idle, and is lost: {answer:?}");
    }
}

#[test]
fn when_all_are_down_requests_fail_fast() {
    alone(async {
        let (setup, mut sessions) = all_down(Setup::new(&["a", "b", "c"]).await).await;
        let asked = || setup.backends.iter().map(|b| b.requests).sum::<u64>();
        let before = asked();
        for session in &mut sessions {
            for _ in 0..5 {
                let answer = session.post("a body").await;
                assert_eq!((answer.status.as_u16(), answer.token), (503, None));
                assert_eq!(setup.session().get("/").await.status, 503);
            }
        }
        assert_eq!(asked(), before, "not even a connection was tried");
        setup.end().await;
    });
}

#[test]
fn when_all_return_every_session_is_on_its_backend() {
    alone(async {
        let (mut setup, mut sessions) =
            all_down(Setup::with(&["a", "b", "c"], hopeful).await).await;
        for session in &mut sessions {
            let answer = session.post("a body").await;
            assert_eq!((answer.status.as_u16(), answer.token), (503, None), "no pin is lost");
        }
        for process in &mut setup.processes {
            process.restart().await;
        }
        back(&setup, &["a", "b", "c"]).await;
        for (session, name) in sessions.iter_mut().zip(["a", "b", "c"]) {
            assert_eq!(session.get("/").await.why(), ("pinned", name, ""), "nothing is forgotten");
        }
        assert_eq!(setup.backends.snapshot().stats.moves(), 0);
        setup.end().await;
    });
}

#[test]
fn six_of_ten_down_move_only_their_sessions() {
    const NAMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    const DOWN: usize = 6;
    alone(async {
        let mut setup = Setup::with(&NAMES, hopeful).await;
        let mut sessions = Vec::new();
        for _ in 0..8 {
            sessions.extend(setup.one_session_each().await);
        }
        for process in &mut setup.processes[..DOWN] {
            process.kill();
        }
        setup.settle(&mut sessions[DOWN]).await;
        let mut homes = Vec::new();
        for (index, session) in sessions.iter_mut().enumerate() {
            let (was, posts) = (index % 10, index % 20 < 10);
            let answer = if posts { session.post("a body").await } else { session.get("/").await };
            assert_eq!(answer.status, 200, "{answer:?}");
            if was < DOWN {
                assert_eq!(answer.verdict, "moved", "{answer:?}");
                assert!(NAMES[DOWN..].contains(&&*answer.server), "{answer:?}");
            } else {
                assert_eq!(answer.why(), ("pinned", NAMES[was], ""));
            }
            homes.push(answer.server);
        }
        let used: BTreeSet<_> = homes.iter().enumerate().filter(|(i, _)| i % 10 < DOWN).collect();
        let used: BTreeSet<_> = used.into_iter().map(|(_, home)| home).collect();
        assert_eq!(used.len(), 4, "all that are left take some: {used:?}");

        for process in &mut setup.processes[..DOWN] {
            process.restart().await;
        }
        back(&setup, &NAMES).await;
        for (session, home) in sessions.iter_mut().zip(&homes) {
            assert_eq!(session.get("/").await.why(), ("pinned", &**home, ""), "no session returns");
        }
        assert_eq!(setup.backends.snapshot().stats.moves(), 48);
        setup.end().await;
    });
}
