//! Property test: the script in Redis behaves like the store in memory.

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
    operation: Operation,
    session: u8,
    /// `None` without a scope.
    request: Option<RequestInfo>,
}

#[derive(Debug, Clone)]
struct RequestInfo {
    epoch: u64,
    backend: &'static str,
    verdict: &'static str,
    /// Whether the affinity is keyed.
    keyed: bool,
}

#[derive(Debug, Clone)]
enum Operation {
    Load,
    Save,
    /// In one request, so that the save is based on the loaded data.
    LoadAndSave,
    /// The save is based on the first load.
    LoadTwiceAndSave,
    Create,
    CreateAndSave,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        4 => Just(Operation::Load),
        6 => Just(Operation::Save),
        4 => Just(Operation::LoadAndSave),
        1 => Just(Operation::LoadTwiceAndSave),
        1 => Just(Operation::Create),
        1 => Just(Operation::CreateAndSave),
        1 => Just(Operation::Delete),
    ];
    // Around a power of ten, where text and numbers have different orders, and above 2^53.
    let epoch = prop_oneof![8..12_u64, u64::MAX - 2..=u64::MAX];
    let owner = prop_oneof![Just("a"), Just("b")];
    let verdict = prop_oneof![6 => Just("pinned"), 2 => Just("borrowed"), 2 => Just("moved")];
    let request = (epoch, owner, verdict, proptest::bool::weighted(0.3)).prop_map(
        |(epoch, backend, verdict, keyed)| RequestInfo { epoch, backend, verdict, keyed },
    );
    let request = proptest::option::weighted(0.9, request);
    (operation, 0..2_u8, request).prop_map(|(operation, session, request)| Step {
        operation,
        session,
        request,
    })
}

fn scope(request: &RequestInfo) -> Scope {
    let mut headers = HeaderMap::new();
    headers.insert("x-sticky-outcome", request.verdict.parse().unwrap());
    headers.insert("x-sticky-backend", request.backend.parse().unwrap());
    headers.insert("x-sticky-session", "00000000000000ff".parse().unwrap());
    headers.insert("x-sticky-epoch", request.epoch.into());
    if request.keyed {
        headers.insert("x-sticky-keyed", "1".parse().unwrap());
    }
    Scope::new(SessionInfo::from_headers(&headers).unwrap())
}

/// Executes a step. Returns its results as text.
async fn execute(store: &impl SessionStore, step: &Step, number: u32) -> String {
    let expiry_date = OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_secs(1 << 33);
    let id = Id(step.session.into());
    let data = HashMap::from([("number".to_owned(), number.into())]);
    let mut record = Record { id, data, expiry_date };
    let work = async {
        match step.operation {
            Operation::Load => format!("{:?}", store.load(&id).await),
            Operation::Save => format!("{:?}", store.save(&record).await),
            Operation::LoadAndSave => {
                let loaded = store.load(&id).await;
                format!("{loaded:?}, {:?}", store.save(&record).await)
            }
            Operation::LoadTwiceAndSave => {
                let loaded = (store.load(&id).await, store.load(&id).await);
                format!("{loaded:?}, {:?}", store.save(&record).await)
            }
            Operation::Create => {
                store.create(&mut record).await.unwrap();
                format!("keeps its id: {}", record.id == id)
            }
            Operation::CreateAndSave => {
                store.create(&mut record).await.unwrap();
                format!("keeps its id: {}, {:?}", record.id == id, store.save(&record).await)
            }
            Operation::Delete => format!("{:?}", store.delete(&id).await),
        }
    };
    match &step.request {
        Some(request) => {
            let scope = scope(request);
            let result = scope.clone().within(work).await;
            format!("{result}, {:?}", scope.refused())
        }
        None => work.await,
    }
}

/// A connection that sends each command twice, as a client may do when its connection breaks before the
/// reply.
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
async fn both_stores_return_the_same_results() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    assert_agreement(ConnectionManager::new(client).await.unwrap()).await;
}

#[tokio::test]
async fn a_call_that_is_sent_twice_is_executed_once() {
    let server = RedisServer::start();
    let client = Client::open(server.url()).unwrap();
    assert_agreement(Twice(ConnectionManager::new(client).await.unwrap())).await;
}

async fn assert_agreement(connection: impl ConnectionLike + Clone + Send + Sync + 'static) {
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
            let actual = execute(&redis, step, number).await;
            let expected = execute(&memory, step, number).await;
            assert_eq!(actual, expected, "step {number} of {steps:#?}");
            refused += u32::from(actual.contains("refused"));
        }
    }
    assert!(refused > 100, "only {refused} saves were refused, so the steps test too little");
}
