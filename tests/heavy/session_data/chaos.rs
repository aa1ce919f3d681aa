//! Whatever happens to shops and gateways, no acknowledged count is lost and none is given twice.

use std::collections::BTreeSet;

use axum::{Router, http::StatusCode};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use tokio::task::JoinHandle;
use tower_sessions::{CachingSessionStore, SessionStore};
use tower_sticky::{
    BackendId, Key, KeyRing, Mode,
    affinity::{self, Cookie},
    session_data::{MemoryStore, RedisStore},
};
use tower_sticky_heavy_tests::{in_time, redis_server::RedisServer};

use super::{
    gateways::{Gateway, NAMES},
    next_millisecond,
    shops::{Answer, Client, Slow, fenced_shop, shop},
};

const PEOPLE: [&str; 2] = ["anna", "bert"];

#[derive(Debug, Clone)]
enum Step {
    /// Who, by which gateway.
    Count(usize, usize),
    /// A request that reads now, and saves at the next `Finish`.
    Begin(usize, usize),
    Finish,
    Logout(usize, usize),
    /// The operator says it to all gateways.
    Mode(usize, Mode),
    /// One gateway does not reach one shop.
    Cut(usize, usize),
    Mend(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Active), Just(Mode::Draining), Just(Mode::Disabled)];
    let (who, by, what) = (0..PEOPLE.len(), 0..2_usize, 0..NAMES.len());
    prop_oneof![
        12 => (who.clone(), by.clone()).prop_map(|(who, by)| Step::Count(who, by)),
        4 => (who.clone(), by.clone()).prop_map(|(who, by)| Step::Begin(who, by)),
        4 => Just(Step::Finish),
        1 => (who, by.clone()).prop_map(|(who, by)| Step::Logout(who, by)),
        4 => (what.clone(), mode).prop_map(|(what, mode)| Step::Mode(what, mode)),
        3 => (by.clone(), what.clone()).prop_map(|(by, what)| Step::Cut(by, what)),
        3 => (by, what).prop_map(|(by, what)| Step::Mend(by, what)),
    ]
}

/// What is known of somebody's session.
#[derive(Default)]
struct Person {
    client: Client,
    /// The last count that was acknowledged; 0 without a session.
    count: u32,
}

/// A request that has read and not yet saved.
struct Pending {
    who: usize,
    answer: JoinHandle<Answer>,
    read: u32,
    /// The shops that have acknowledged something of the session since.
    since: BTreeSet<BackendId>,
    logged_out: bool,
}

struct World {
    gateways: [Gateway; 2],
    slow: Slow,
    people: [Person; PEOPLE.len()],
    pending: Option<Pending>,
    refused: u32,
}

/// Something that must not be.
type Wrong = String;

impl World {
    async fn new(shops: impl Fn(&Slow) -> [Router; 3], keys: Option<&str>) -> Self {
        let slow = Slow::default();
        let shops = shops(&slow);
        let gateways = match keys {
            Some(keys) => {
                let ring = || KeyRing::new([Key::from_base64(keys).unwrap()]).unwrap();
                let cookie = || Cookie::sealed("sticky", ring());
                [Gateway::new(&shops, cookie()).await, Gateway::new(&shops, cookie()).await]
            }
            None => {
                let key = || affinity::Key::header("x-user");
                [Gateway::new(&shops, key()).await, Gateway::new(&shops, key()).await]
            }
        };
        Self { gateways, slow, people: Default::default(), pending: None, refused: 0 }
    }

    async fn take(&mut self, step: &Step) -> Result<(), Wrong> {
        match *step {
            Step::Count(who, by) => self.count(who, by).await?,
            Step::Begin(who, by) => self.begin(who, by).await,
            Step::Finish => self.finish().await?,
            Step::Logout(who, by) => self.log_out(who, by).await,
            Step::Mode(what, mode) => {
                for gateway in &self.gateways {
                    gateway.backends.set_mode(NAMES[what], mode).unwrap();
                }
                next_millisecond().await;
            }
            Step::Cut(by, what) => self.gateways[by].cut(NAMES[what]),
            Step::Mend(by, what) => self.gateways[by].mend(NAMES[what]).await,
        }
        Ok(())
    }

    async fn count(&mut self, who: usize, by: usize) -> Result<(), Wrong> {
        let person = &mut self.people[who];
        let service = self.gateways[by].service.clone();
        let answer = person.client.get_as(PEOPLE[who], service, "/count").await;
        match answer.status {
            StatusCode::OK => {
                person.count += 1;
                if answer.body != person.count.to_string() {
                    return Err(format!("{} instead of {}: {answer:?}", answer.body, person.count));
                }
                if let Some(pending) = self.pending.as_mut().filter(|pending| pending.who == who) {
                    pending.since.extend(answer.backend);
                }
                Ok(())
            }
            StatusCode::CONFLICT => {
                self.refused += 1;
                Ok(())
            }
            StatusCode::SERVICE_UNAVAILABLE => Ok(()),
            other => Err(format!("{other}: {answer:?}")),
        }
    }

    async fn begin(&mut self, who: usize, by: usize) {
        if self.pending.is_some() || self.people[who].count == 0 {
            return;
        }
        let service = self.gateways[by].service.clone();
        let mut client = self.people[who].client.clone();
        let mut answer =
            tokio::spawn(async move { client.get_as(PEOPLE[who], service, "/slow").await });
        let have_read = self.slow.have_read.clone();
        tokio::select! {
            // It could not be served.
            _ = &mut answer => {}
            read = have_read.acquire() => {
                read.unwrap().forget();
                let (read, since) = (self.people[who].count, BTreeSet::new());
                self.pending = Some(Pending { who, answer, read, since, logged_out: false });
            }
        }
    }

    async fn finish(&mut self) -> Result<(), Wrong> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        self.slow.may_write.add_permits(1);
        let answer = in_time("the slow request ends", pending.answer).await.unwrap();
        match answer.status {
            StatusCode::OK => {
                let elsewhere = pending.since.iter().any(|by| Some(by) != answer.backend.as_ref());
                if pending.logged_out || elsewhere {
                    return Err(format!("{answer:?} erases what {:?} have done", pending.since));
                }
                // It may have read an old copy, and then nothing else may count.
                if answer.body != (pending.read + 1).to_string() {
                    return Err(format!("{answer:?} after {}", pending.read));
                }
                self.people[pending.who].count = pending.read + 1;
                Ok(())
            }
            StatusCode::CONFLICT => {
                self.refused += 1;
                Ok(())
            }
            other => Err(format!("{other}: {answer:?}")),
        }
    }

    async fn log_out(&mut self, who: usize, by: usize) {
        let person = &mut self.people[who];
        let service = self.gateways[by].service.clone();
        let answer = person.client.get_as(PEOPLE[who], service, "/logout").await;
        if answer.status == StatusCode::OK {
            person.count = 0;
            if let Some(pending) = self.pending.as_mut().filter(|pending| pending.who == who) {
                pending.logged_out = true;
            }
        }
    }

    /// Everything works again: everybody goes on, by either gateway.
    async fn heal(&mut self) -> Result<(), Wrong> {
        self.finish().await?;
        for (what, name) in NAMES.into_iter().enumerate() {
            self.take(&Step::Mode(what, Mode::Active)).await?;
            for gateway in &self.gateways {
                gateway.mend(name).await;
            }
        }
        for (who, name) in PEOPLE.into_iter().enumerate() {
            for by in [0, 1, 0] {
                let before = self.people[who].count;
                for _ in 0..3 {
                    self.count(who, by).await?;
                }
                if self.people[who].count == before {
                    return Err(format!("{name} is locked out of gateway {by}"));
                }
            }
        }
        Ok(())
    }
}

/// Runs many stories; gives the first that went wrong, and how many saves were refused.
async fn run(
    cases: u32,
    shops: impl Fn(u32, &Slow) -> [Router; 3],
    keys: Option<&str>,
) -> (Option<Wrong>, u32) {
    let mut runner = TestRunner::new(Config::default());
    let mut refused = 0;
    let steps = proptest::collection::vec(step(), 10..60);
    for case in 0..cases {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut world = World::new(|slow| shops(case, slow), keys).await;
        for (number, step) in steps.iter().enumerate() {
            if let Err(wrong) = world.take(step).await {
                return (Some(format!("{wrong} in step {number} of {steps:#?}")), refused);
            }
        }
        if let Err(wrong) = world.heal().await {
            return (Some(format!("{wrong} at the end of {steps:#?}")), refused);
        }
        refused += world.refused;
    }
    (None, refused)
}

const KEYS: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

async fn nothing_is_lost(
    cases: u32,
    shops: impl Fn(u32, &Slow) -> [Router; 3],
    keys: Option<&str>,
) {
    let (wrong, refused) = run(cases, shops, keys).await;
    assert_eq!(wrong, None);
    assert!(refused > cases / 10, "{refused} were refused: the stories must not be too tame");
}

fn fenced<S: SessionStore + Clone>(store: &S, slow: &Slow) -> [Router; 3] {
    NAMES.map(|_| fenced_shop(store, slow))
}

#[tokio::test]
async fn with_tokens() {
    nothing_is_lost(200, |_, slow| fenced(&MemoryStore::new(), slow), Some(KEYS)).await;
}

#[tokio::test]
async fn with_keys() {
    nothing_is_lost(200, |_, slow| fenced(&MemoryStore::new(), slow), None).await;
}

#[tokio::test]
async fn with_tokens_in_redis() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    nothing_is_lost(50, |_, slow| fenced(&store, slow), Some(KEYS)).await;
}

#[tokio::test]
async fn with_keys_in_redis() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    nothing_is_lost(50, |_, slow| fenced(&store, slow), None).await;
}

/// The control: these stories do lose something without the fence.
#[tokio::test]
async fn without_a_fence() {
    for keys in [Some(KEYS), None] {
        let shops = |_, slow: &Slow| {
            let store = MemoryStore::new();
            NAMES.map(|_| shop(CachingSessionStore::new(MemoryStore::new(), store.clone()), slow))
        };
        let (wrong, _) = run(200, shops, keys).await;
        let wrong = wrong.expect("an old copy is used");
        assert!(!wrong.contains("locked out"), "{wrong}");
    }
}
