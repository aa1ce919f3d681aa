//! The script in Redis does as the store in memory, which has the rules.

use std::collections::HashMap;

use axum::http::HeaderMap;
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
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
    borrows: bool,
    /// Whether a key decides.
    keyed: bool,
}

#[derive(Debug, Clone)]
enum What {
    Load,
    Save,
    /// In one request, so that the save builds on what was read.
    LoadAndSave,
    Create,
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => Just(What::Load),
        6 => Just(What::Save),
        4 => Just(What::LoadAndSave),
        1 => Just(What::Create),
        1 => Just(What::Delete),
    ];
    // Around a power of ten, where text and number differ, and beyond what a double holds.
    let epoch = prop_oneof![8..12_u64, u64::MAX - 2..=u64::MAX];
    let owner = prop_oneof![Just("a"), Just("b")];
    let who = (epoch, owner, proptest::bool::weighted(0.2), proptest::bool::weighted(0.3));
    let who =
        who.prop_map(|(epoch, backend, borrows, keyed)| Who { epoch, backend, borrows, keyed });
    let who = proptest::option::weighted(0.9, who);
    (what, 0..2_u8, who).prop_map(|(what, session, who)| Step { what, session, who })
}

fn scope(who: &Who) -> Scope {
    let mut headers = HeaderMap::new();
    let outcome = if who.borrows { "borrowed" } else { "pinned" };
    headers.insert("x-sticky-outcome", outcome.parse().unwrap());
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
            What::Create => {
                store.create(&mut record).await.unwrap();
                format!("its own id: {}", record.id == id)
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

#[tokio::test]
async fn both_stores_say_the_same() {
    let server = RedisServer::start();
    let mut runner = TestRunner::new(Config::default());
    let steps = proptest::collection::vec(step(), 1..24);
    let mut refused = 0;
    for case in 0..400 {
        let shared = case % 4 == 0;
        let redis = RedisStore::new(&server.url()).unwrap();
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
