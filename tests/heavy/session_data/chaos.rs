//! Property test: with random failures and moves, no acknowledged count is lost or returned twice.

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

const USERS: [&str; 2] = ["anna", "bert"];

#[derive(Debug, Clone)]
enum Step {
    /// A request of a user, through a gateway.
    Count(usize, usize),
    /// A request that loads the session now, and saves it at the next `Finish`.
    Begin(usize, usize),
    Finish,
    Logout(usize, usize),
    /// Sets the mode of a shop on all gateways.
    Mode(usize, Mode),
    /// Disconnects a gateway from a shop.
    Disconnect(usize, usize),
    Reconnect(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![Just(Mode::Active), Just(Mode::Draining), Just(Mode::Disabled)];
    let (user, gateway, shop) = (0..USERS.len(), 0..2_usize, 0..NAMES.len());
    prop_oneof![
        12 => (user.clone(), gateway.clone())
            .prop_map(|(user, gateway)| Step::Count(user, gateway)),
        4 => (user.clone(), gateway.clone())
            .prop_map(|(user, gateway)| Step::Begin(user, gateway)),
        4 => Just(Step::Finish),
        1 => (user, gateway.clone()).prop_map(|(user, gateway)| Step::Logout(user, gateway)),
        4 => (shop.clone(), mode).prop_map(|(shop, mode)| Step::Mode(shop, mode)),
        3 => (gateway.clone(), shop.clone())
            .prop_map(|(gateway, shop)| Step::Disconnect(gateway, shop)),
        3 => (gateway, shop).prop_map(|(gateway, shop)| Step::Reconnect(gateway, shop)),
    ]
}

#[derive(Default)]
struct User {
    client: Client,
    /// The last acknowledged count; 0 without a session.
    count: u32,
}

/// A request that has loaded the session and not saved it yet.
struct Pending {
    user: usize,
    answer: JoinHandle<Answer>,
    read: u32,
    /// The shops that have acknowledged a count of the session since.
    since: BTreeSet<BackendId>,
    logged_out: bool,
}

struct World {
    gateways: [Gateway; 2],
    slow: Slow,
    users: [User; USERS.len()],
    pending: Option<Pending>,
    refused: u32,
}

/// A description of what went wrong.
type Violation = String;

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
        Self { gateways, slow, users: Default::default(), pending: None, refused: 0 }
    }

    async fn execute(&mut self, step: &Step) -> Result<(), Violation> {
        match *step {
            Step::Count(user, gateway) => self.count(user, gateway).await?,
            Step::Begin(user, gateway) => self.begin(user, gateway).await,
            Step::Finish => self.finish().await?,
            Step::Logout(user, gateway) => self.log_out(user, gateway).await,
            Step::Mode(shop, mode) => {
                for gateway in &self.gateways {
                    gateway.backends.set_mode(NAMES[shop], mode).unwrap();
                }
                next_millisecond().await;
            }
            Step::Disconnect(gateway, shop) => self.gateways[gateway].disconnect(NAMES[shop]),
            Step::Reconnect(gateway, shop) => self.gateways[gateway].reconnect(NAMES[shop]).await,
        }
        Ok(())
    }

    async fn count(&mut self, user: usize, gateway: usize) -> Result<(), Violation> {
        let User { client, count } = &mut self.users[user];
        let service = self.gateways[gateway].service.clone();
        let answer = client.get_as(USERS[user], service, "/count").await;
        match answer.status {
            StatusCode::OK => {
                *count += 1;
                if answer.body != count.to_string() {
                    return Err(format!("{} instead of {count}: {answer:?}", answer.body));
                }
                if let Some(pending) = self.pending.as_mut().filter(|pending| pending.user == user)
                {
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

    async fn begin(&mut self, user: usize, gateway: usize) {
        if self.pending.is_some() || self.users[user].count == 0 {
            return;
        }
        let service = self.gateways[gateway].service.clone();
        let mut client = self.users[user].client.clone();
        let mut answer =
            tokio::spawn(async move { client.get_as(USERS[user], service, "/slow").await });
        let loaded = self.slow.loaded.clone();
        tokio::select! {
            // The request could not be served.
            _ = &mut answer => {}
            permit = loaded.acquire() => {
                permit.unwrap().forget();
                let (read, since) = (self.users[user].count, BTreeSet::new());
                self.pending = Some(Pending { user, answer, read, since, logged_out: false });
            }
        }
    }

    async fn finish(&mut self) -> Result<(), Violation> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        self.slow.may_save.add_permits(1);
        let answer = in_time("the slow request ends", pending.answer).await.unwrap();
        match answer.status {
            StatusCode::OK => {
                let elsewhere = pending.since.iter().any(|by| Some(by) != answer.backend.as_ref());
                if pending.logged_out || elsewhere {
                    return Err(format!("{answer:?} overwrites the saves of {:?}", pending.since));
                }
                // It may have loaded an outdated copy, but then the save must be refused.
                if answer.body != (pending.read + 1).to_string() {
                    return Err(format!("{answer:?} after {}", pending.read));
                }
                self.users[pending.user].count = pending.read + 1;
                Ok(())
            }
            StatusCode::CONFLICT => {
                self.refused += 1;
                Ok(())
            }
            other => Err(format!("{other}: {answer:?}")),
        }
    }

    async fn log_out(&mut self, user: usize, gateway: usize) {
        let User { client, count } = &mut self.users[user];
        let service = self.gateways[gateway].service.clone();
        let answer = client.get_as(USERS[user], service, "/logout").await;
        if answer.status == StatusCode::OK {
            *count = 0;
            if let Some(pending) = self.pending.as_mut().filter(|pending| pending.user == user) {
                pending.logged_out = true;
            }
        }
    }

    /// Recovers all shops and connections. Each user must then be able to count on through each gateway.
    async fn recover(&mut self) -> Result<(), Violation> {
        self.finish().await?;
        for (shop, name) in NAMES.into_iter().enumerate() {
            self.execute(&Step::Mode(shop, Mode::Active)).await?;
            for gateway in &self.gateways {
                gateway.reconnect(name).await;
            }
        }
        for (user, name) in USERS.into_iter().enumerate() {
            for gateway in [0, 1, 0] {
                let before = self.users[user].count;
                for _ in 0..3 {
                    self.count(user, gateway).await?;
                }
                if self.users[user].count == before {
                    return Err(format!("{name} is locked out of gateway {gateway}"));
                }
            }
        }
        Ok(())
    }
}

/// Runs many cases. Returns the first violation, and the number of refused saves.
async fn run(
    cases: u32,
    shops: impl Fn(u32, &Slow) -> [Router; 3],
    keys: Option<&str>,
) -> (Option<Violation>, u32) {
    let mut runner = TestRunner::new(Config::default());
    let mut refused = 0;
    let steps = proptest::collection::vec(step(), 10..60);
    for case in 0..cases {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut world = World::new(|slow| shops(case, slow), keys).await;
        for (number, step) in steps.iter().enumerate() {
            if let Err(violation) = world.execute(step).await {
                return (Some(format!("{violation} in step {number} of {steps:#?}")), refused);
            }
        }
        if let Err(violation) = world.recover().await {
            return (Some(format!("{violation} at the end of {steps:#?}")), refused);
        }
        refused += world.refused;
    }
    (None, refused)
}

const KEYS: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

async fn assert_nothing_is_lost(
    cases: u32,
    shops: impl Fn(u32, &Slow) -> [Router; 3],
    keys: Option<&str>,
) {
    let (violation, refused) = run(cases, shops, keys).await;
    assert_eq!(violation, None);
    assert!(
        refused > cases / 10,
        "only {refused} saves were refused, so the steps test too little"
    );
}

fn fenced<S: SessionStore + Clone>(store: &S, slow: &Slow) -> [Router; 3] {
    NAMES.map(|_| fenced_shop(store, slow))
}

#[tokio::test]
async fn no_count_is_lost_with_tokens() {
    assert_nothing_is_lost(200, |_, slow| fenced(&MemoryStore::new(), slow), Some(KEYS)).await;
}

#[tokio::test]
async fn no_count_is_lost_with_keys() {
    assert_nothing_is_lost(200, |_, slow| fenced(&MemoryStore::new(), slow), None).await;
}

#[tokio::test]
async fn no_count_is_lost_with_tokens_and_redis() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    assert_nothing_is_lost(50, |_, slow| fenced(&store, slow), Some(KEYS)).await;
}

#[tokio::test]
async fn no_count_is_lost_with_keys_and_redis() {
    let server = RedisServer::start();
    let store = RedisStore::new(&server.url()).unwrap();
    assert_nothing_is_lost(50, |_, slow| fenced(&store, slow), None).await;
}

/// The negative control: without the fence, counts are lost.
#[tokio::test]
async fn counts_are_lost_without_a_fence() {
    for keys in [Some(KEYS), None] {
        let shops = |_, slow: &Slow| {
            let store = MemoryStore::new();
            NAMES.map(|_| shop(CachingSessionStore::new(MemoryStore::new(), store.clone()), slow))
        };
        let (violation, _) = run(200, shops, keys).await;
        let violation = violation.expect("an outdated copy is used");
        assert!(!violation.contains("locked out"), "{violation}");
    }
}
