//! Backends that go and come: one that flaps, most of them, all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use futures_util::future::join_all;
use tower_sticky::{Backends, State, proxy::Upstream};
use tower_sticky_heavy_tests::in_time;

use crate::{
    alone::alone,
    session::{Answer, Session},
    setup::Setup,
};

/// Sends requests without a session until all backends of these are up.
async fn back(setup: &Setup, ids: &[&str]) {
    let down = |backends: &Backends<Upstream>| {
        ids.iter().any(|id| backends.get(id).unwrap().state != State::Ready)
    };
    let wait = async {
        while down(&setup.backends) {
            // Each of them may be the trial of a backend whose ejection is over.
            setup.session().get("/").await;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    in_time("they are back", wait).await;
}

/// Sessions that never rest, and what was answered to each.
#[derive(Default)]
struct Restless {
    over: AtomicBool,
    answers: Mutex<BTreeMap<usize, Vec<(bool, Answer)>>>,
    count: AtomicUsize,
}

impl Restless {
    /// One of two requests is a POST.
    async fn run(self: Arc<Self>, id: usize, mut session: Session) {
        for round in 0.. {
            let posts = round % 2 == 1;
            let answer =
                if posts { session.post(vec![1; 3_000]).await } else { session.get("/").await };
            self.answers.lock().unwrap().entry(id).or_default().push((posts, answer));
            self.count.fetch_add(1, SeqCst);
            if self.over.load(SeqCst) {
                return;
            }
        }
    }

    /// Waits for some more answers.
    async fn more(&self, answers: usize) {
        let count = self.count.load(SeqCst) + answers;
        tower_sticky_heavy_tests::until("there are answers", || self.count.load(SeqCst) >= count)
            .await;
    }
}

#[test]
fn a_backend_that_flaps_loses_each_session_once() {
    const OUTAGES: usize = 5;
    alone(async {
        let mut setup = Setup::new(&["a", "b", "c"]).await;
        let traffic = Arc::<Restless>::default();
        let mut clients = Vec::new();
        let mut at_a = 0;
        for outage in 0..OUTAGES {
            // Six more sessions, a third of them at the one that flaps.
            for index in 0..6 {
                let mut session = setup.session();
                at_a += u64::from(session.get("/").await.server == "a");
                let id = 6 * outage + index;
                clients.push(tokio::spawn(traffic.clone().run(id, session)));
            }
            traffic.more(60).await;
            setup.processes[0].kill();
            traffic.more(60).await;
            setup.processes[0].restart().await;
            back(&setup, &["a"]).await;
        }
        traffic.over.store(true, SeqCst);
        join_all(clients).await.into_iter().for_each(|client| client.unwrap());
        let (mut moves, mut lost) = (0, 0);
        for (session, answers) in &*traffic.answers.lock().unwrap() {
            let moved: Vec<_> = answers.iter().filter(|(_, a)| a.verdict == "moved").collect();
            assert!(moved.len() <= 1, "session {session} is not sent to and fro: {moved:#?}");
            moves += moved.len() as u64;
            for (posts, answer) in answers {
                match answer.status.as_u16() {
                    200 => {}
                    502 if *posts => lost += 1,
                    _ => panic!("session {session}: a request was lost: {answer:?}"),
                }
            }
            let after = answers.iter().skip_while(|(_, answer)| answer.verdict != "moved").skip(1);
            let homes: BTreeSet<_> = after.map(|(_, answer)| &answer.server).collect();
            assert!(homes.len() <= 1 && !homes.contains(&"a".to_owned()), "{session}: {homes:?}");
        }
        assert!(at_a >= OUTAGES as u64, "there was something to lose each time: {at_a}");
        assert_eq!(moves, at_a, "those that were there have moved, and no others");
        assert_eq!(setup.backends.snapshot().stats.moves(), moves);
        println!("{OUTAGES} outages: {moves} sessions moved, {lost} POSTs were lost with a");
        assert!(lost <= at_a, "at most the one that each session had under way: {lost}");
        setup.end().await;
    });
}

#[test]
fn when_all_are_down_the_answer_is_503_at_once_and_then_all_is_as_before() {
    alone(async {
        let names = ["a", "b", "c"];
        let mut setup = Setup::new(&names).await;
        let mut sessions = setup.one_session_each().await;
        setup.processes.iter_mut().for_each(|process| process.kill());
        let tried = |setup: &Setup| setup.backends.iter().map(|b| b.requests).sum::<u64>();
        // Whoever comes first finds out.
        let mut visitor = setup.session();
        loop {
            let answer = visitor.get("/").await;
            if answer.status == 503 {
                break;
            }
            assert_eq!(answer.status, 502, "its connection was idle, and is lost: {answer:?}");
        }
        let before = tried(&setup);
        for session in &mut sessions {
            for _ in 0..5 {
                // While all are ejected nobody is asked; one whose ejection is over is, once.
                let answer = session.post("a body").await;
                assert_eq!((answer.status.as_u16(), &answer.token), (503, &None), "{answer:?}");
                assert!(setup.log.of(answer.number).is_empty());
            }
        }
        let tries = tried(&setup) - before;
        println!("15 requests while all are down: {tries} tries");
        for process in &mut setup.processes {
            process.restart().await;
        }
        back(&setup, &names).await;
        for (session, name) in sessions.iter_mut().zip(names) {
            assert_eq!(session.get("/").await.why(), ("pinned", name, ""), "nothing is forgotten");
        }
        assert_eq!(setup.backends.snapshot().stats.moves(), 0);
        setup.end().await;
    });
}

#[test]
fn six_of_ten_down_move_their_sessions_and_nobody_elses() {
    const NAMES: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    const DOWN: usize = 6;
    alone(async {
        let mut setup = Setup::new(&NAMES).await;
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
            let answer =
                if posts { session.post("a body").await } else { session.get("/").await };
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
            assert_eq!(session.get("/").await.why(), ("pinned", &**home, ""), "nobody returns");
        }
        assert_eq!(setup.backends.snapshot().stats.moves(), 48);
        setup.end().await;
    });
}
