//! The script in Redis does as the store in memory, which has the rules.

use std::collections::HashMap;

use axum::http::HeaderMap;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};
use redis::{
    Client, Cmd, Pipeline, RedisFuture, Value,
    aio::{ConnectionLike, ConnectionManager},
};
use time::OffsetDateTime;
use tower_sessions::{
    SessionStore,
    session::{Id, Record},
};
use tower_sticky::{
    SessionInfo,
    session_data::{MemoryStore, RedisStore, Scope},
};
use tower_sticky_heavy_tests::redis_server::RedisServer;

#[derive(Debug, Clone)]
struct Step {
    what: What,
    session: u8,
    /// `None` without a scope.
    who: Option<Who>,
}

#[derive(Debug, Clone)]
struct Who {
    epoch: u64,
    backend: &'static str,
    verdict: &'static str,
    /// Whether a key decides.
    keyed: bool,
}

#[derive(Debug, Clone)]
enum What {
    Load,
    Save,
    /// In one request, so that the save builds on what was read.
    LoadAndSave,
    /// Looks once more, at what it does not build on.
    LoadTwiceAndSave,
    Create,
    CreateAndSave,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => Just(What::Load),
        6 => Just(What::Save),
        4 => Just(What::LoadAndSave),
        1 => Just(What::LoadTwiceAndSave),
        1 => Just(What::Create),
        1 => Just(What::CreateAndSave),
        1 => Just(What::Delete),
    ];
    // Around a power of ten, where text and number differ, and beyond what a double holds.
    let epoch = prop_oneof![8..12_u64, u64::MAX - 2..=u64::MAX];
    let owner = prop_oneof![Just("a"), Just("b")];
    let verdict = prop_oneof![6 => Just("pinned"), 2 => Just("borrowed"), 2 => Just("moved")];
    let who = (epoch, owner, verdict, proptest::bool::weighted(0.3));
    let who =
        who.prop_map(|(epoch, backend, verdict, keyed)| Who { epoch, backend, verdict, keyed });
    let who = proptest::option::weighted(0.9, who);
    (what, 0..2_u8, who).prop_map(|(what, session, who)| Step { what, session, who })
}

fn scope(who: &Who) -> Scope {
    let mut headers = HeaderMap::new();
    headers.insert("x-sticky-outcome", who.verdict.parse().unwrap());
    headers.insert("x-sticky-backend", who.backend.parse().unwrap());
    headers.insert("x-sticky-session", "00000000000000ff".parse().unwrap());
    headers.insert("x-sticky-epoch", who.epoch.into());
    if who.keyed {
        headers.insert("x-sticky-keyed", "1".parse().unwrap());
    }
    Scope::new(SessionInfo::from_headers(&headers).unwrap())
}

/// What a store says to one step.
async fn take(store: &impl SessionStore, step: &Step, number: u32) -> String {
    let expiry_date = OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33);
    let id = Id(step.session.into());
    let data = HashMap::from([("number".to_owned(), number.into())]);
    let mut record = Record { id, data, expiry_date };
    let work = async {
        match step.what {
            What::Load => format!("{:?}", store.load(&id).await),
            What::Save => format!("{:?}", store.save(&record).await),
            What::LoadAndSave => {
                let loaded = store.load(&id).await;
                format!("{loaded:?}, {:?}", store.save(&record).await)
            }
            What::LoadTwiceAndSave => {
                let loaded = (store.load(&id).await, store.load(&id).await);
                format!("{loaded:?}, {:?}", store.save(&record).await)
            }
            What::Create => {
                store.create(&mut record).await.unwrap();
                format!("its own id: {}", record.id == id)
            }
            What::CreateAndSave => {
                store.create(&mut record).await.unwrap();
                format!("its own id: {}, {:?}", record.id == id, store.save(&record).await)
            }
            What::Delete => format!("{:?}", store.delete(&id).await),
        }
    };
    match &step.who {
        Some(who) => {
            let scope = scope(who);
            let said = scope.clone().within(work).await;
            format!("{said}, {:?}", scope.refused())
        }
        None => work.await,
    }
}

/// A connection that sends everything twice, as a client may when it does not know whether the first
/// call has arrived.
#[derive(Clone)]
struct Twice(ConnectionManager);

impl ConnectionLike for Twice {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            self.0.req_packed_command(cmd).await?;
            self.0.req_packed_command(cmd).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(commands, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test]
async fn both_stores_say_the_same() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    agree(ConnectionManager::new(client).await.unwrap()).await;
}

#[tokio::test]
async fn a_call_that_arrives_twice_counts_once() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    agree(Twice(ConnectionManager::new(client).await.unwrap())).await;
}

async fn agree(connection: impl ConnectionLike + Clone + Send + Sync + 'static) {
    let mut runner = TestRunner::new(Config::default());
    let steps = proptest::collection::vec(step(), 1..24);
    let mut refused = 0;
    for case in 0..400 {
        let shared = case % 4 == 0;
        let redis = RedisStore::with_connection(connection.clone());
        let redis = redis.prefix(&format!("{case}:")).shared_saves(shared);
        let memory = MemoryStore::new().shared_saves(shared);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        for (number, step) in (0..).zip(&steps) {
            let says = take(&redis, step, number).await;
            let expected = take(&memory, step, number).await;
            assert_eq!(says, expected, "step {number} of {steps:#?}");
            refused += u32::from(says.contains("refused"));
        }
    }
    assert!(refused > 100, "{refused} were refused: the steps must not be too tame");
}
