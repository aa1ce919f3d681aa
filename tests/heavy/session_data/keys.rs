//! Sessions whose backend is chosen by a key: no token carries an epoch, and each gateway has its own.

use axum::{Router, http::StatusCode};
use tower_sessions::SessionStore;
use tower_sticky::{
    Mode,
    affinity::Key,
    session_data::{MemoryStore, RedisStore},
};
use tower_sticky_heavy_tests::redis_server::RedisServer;

use super::{
    gateways::{Gateway, NAMES},
    shops::{Answer, Client, Slow, fenced_shop},
};

over_both_stores!(
    gateways_of_different_ages_agree,
    a_session_goes_on_elsewhere_and_comes_back,
    a_session_goes_elsewhere_when_its_shop_is_closed,
    a_gateway_that_has_not_seen_an_outage_goes_on_after_it,
    gateways_that_disagree_for_good_lose_nothing_and_lock_nobody_out,
);

/// The shops `a`, `b` and `c`, which share a store, and keep copies.
fn shops<S: SessionStore + Clone>(store: &S) -> [Router; 3] {
    NAMES.map(|_| fenced_shop(store, &Slow::default()))
}

async fn open(shops: &[Router; 3]) -> Gateway {
    Gateway::new(shops, Key::header("x-user")).await
}

async fn get(gateway: &Gateway, client: &mut Client, path: &str) -> Answer {
    client.get_as("anna", gateway.service.clone(), path).await
}

async fn ok(gateway: &Gateway, client: &mut Client, path: &str) -> String {
    let answer = get(gateway, client, path).await;
    assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
    answer.body
}

/// The shop that has served something, which only the session's has.
fn home(gateway: &Gateway) -> &'static str {
    let served = |name: &&str| gateway.backends.get(name).unwrap().requests > 0;
    NAMES.into_iter().find(served).unwrap()
}

async fn gateways_of_different_ages_agree(store: impl SessionStore + Clone) {
    let shops = shops(&store);
    let first = open(&shops).await;
    let second = open(&shops).await;
    let mut client = Client::default();
    for (count, gateway) in (1..).zip([&second, &first, &first, &second, &first, &second]) {
        assert_eq!(ok(gateway, &mut client, "/count").await, count.to_string());
    }
    assert_eq!(home(&first), home(&second));
}

async fn a_session_goes_on_elsewhere_and_comes_back(store: impl SessionStore + Clone) {
    let gateway = open(&shops(&store)).await;
    let mut client = Client::default();
    assert_eq!(ok(&gateway, &mut client, "/count").await, "1");
    assert_eq!(ok(&gateway, &mut client, "/read").await, "1", "there is a copy");
    let home = home(&gateway);
    for counts in [["2", "3", "4"], ["5", "6", "7"]] {
        gateway.cut(home);
        for count in &counts[..2] {
            assert_eq!(ok(&gateway, &mut client, "/count").await, *count, "elsewhere");
        }
        gateway.mend(home).await;
        assert_eq!(ok(&gateway, &mut client, "/count").await, counts[2], "at home again");
    }
}

/// The same when the operator takes the shop out.
async fn a_session_goes_elsewhere_when_its_shop_is_closed(store: impl SessionStore + Clone) {
    let gateway = open(&shops(&store)).await;
    let mut client = Client::default();
    assert_eq!(ok(&gateway, &mut client, "/count").await, "1");
    let home = home(&gateway);
    for (mode, count) in [(Mode::Disabled, 2), (Mode::Active, 3), (Mode::Draining, 4)] {
        gateway.backends.set_mode(home, mode).unwrap();
        let said = ok(&gateway, &mut client, "/count").await;
        assert_eq!(said, count.to_string(), "{mode}");
    }
}

async fn a_gateway_that_has_not_seen_an_outage_goes_on_after_it(store: impl SessionStore + Clone) {
    let shops = shops(&store);
    let (first, second) = (open(&shops).await, open(&shops).await);
    let mut client = Client::default();
    assert_eq!(ok(&second, &mut client, "/count").await, "1");
    let home = home(&second);
    // Only the first gateway does not reach it for a while.
    first.cut(home);
    assert_eq!(ok(&first, &mut client, "/count").await, "2");
    first.mend(home).await;
    let refused = get(&second, &mut client, "/count").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "its copy is out of date: {}", refused.body);
    assert_eq!(ok(&second, &mut client, "/count").await, "3", "and no more than once");
    assert_eq!(ok(&second, &mut client, "/count").await, "4");
    assert_eq!(ok(&first, &mut client, "/count").await, "5");
    assert_eq!(ok(&second, &mut client, "/count").await, "6");
}

/// The clock of one gateway may be wrong by any time, and a change of members may reach one alone.
async fn gateways_that_disagree_for_good_lose_nothing_and_lock_nobody_out(
    store: impl SessionStore + Clone,
) {
    let shops = shops(&store);
    let (first, second) = (open(&shops).await, open(&shops).await);
    let mut client = Client::default();
    assert_eq!(second_try(&first, &mut client).await, "1");
    first.backends.set_mode(home(&first), Mode::Disabled).unwrap();
    for (count, gateway) in (2..).zip([&first, &second, &second, &first, &second, &first, &first]) {
        assert_eq!(second_try(gateway, &mut client).await, count.to_string());
    }
    let served = |gateway: &Gateway| {
        let served = |name: &&str| gateway.backends.get(name).unwrap().requests > 1;
        NAMES.into_iter().filter(served).collect::<Vec<_>>()
    };
    assert_ne!(served(&first), served(&second), "they did disagree");
}

/// The count, by a client that tries again after a conflict.
async fn second_try(gateway: &Gateway, client: &mut Client) -> String {
    let answer = get(gateway, client, "/count").await;
    if answer.status == StatusCode::CONFLICT {
        return ok(gateway, client, "/count").await;
    }
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}
