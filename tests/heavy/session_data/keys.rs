//! Sessions with a keyed affinity, where each gateway counts epochs by itself.

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
    a_session_fails_over_and_returns,
    a_session_moves_when_its_shop_is_disabled_or_draining,
    a_gateway_that_has_not_noticed_an_outage_retries_once,
    gateways_that_disagree_permanently_lose_no_data,
);

/// The shops `a`, `b` and `c` with a shared store, each with a local cache.
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

/// The shop of the session, the only one with requests.
fn shop_of(gateway: &Gateway) -> &'static str {
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
    assert_eq!(shop_of(&first), shop_of(&second));
}

async fn a_session_fails_over_and_returns(store: impl SessionStore + Clone) {
    let gateway = open(&shops(&store)).await;
    let mut client = Client::default();
    assert_eq!(ok(&gateway, &mut client, "/count").await, "1");
    assert_eq!(ok(&gateway, &mut client, "/read").await, "1", "it is read from a copy");
    let shop = shop_of(&gateway);
    for counts in [["2", "3", "4"], ["5", "6", "7"]] {
        gateway.disconnect(shop);
        for count in &counts[..2] {
            assert_eq!(ok(&gateway, &mut client, "/count").await, *count, "on another shop");
        }
        gateway.reconnect(shop).await;
        assert_eq!(ok(&gateway, &mut client, "/count").await, counts[2], "on its own shop again");
    }
}

async fn a_session_moves_when_its_shop_is_disabled_or_draining(store: impl SessionStore + Clone) {
    let gateway = open(&shops(&store)).await;
    let mut client = Client::default();
    assert_eq!(ok(&gateway, &mut client, "/count").await, "1");
    let shop = shop_of(&gateway);
    for (mode, count) in [(Mode::Disabled, 2), (Mode::Active, 3), (Mode::Draining, 4)] {
        gateway.backends.set_mode(shop, mode).unwrap();
        let body = ok(&gateway, &mut client, "/count").await;
        assert_eq!(body, count.to_string(), "{mode}");
    }
}

async fn a_gateway_that_has_not_noticed_an_outage_retries_once(store: impl SessionStore + Clone) {
    let shops = shops(&store);
    let (first, second) = (open(&shops).await, open(&shops).await);
    let mut client = Client::default();
    assert_eq!(ok(&second, &mut client, "/count").await, "1");
    let shop = shop_of(&second);
    // Only the first gateway is disconnected.
    first.disconnect(shop);
    assert_eq!(ok(&first, &mut client, "/count").await, "2");
    first.reconnect(shop).await;
    let refused = get(&second, &mut client, "/count").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "its copy is outdated: {}", refused.body);
    assert_eq!(ok(&second, &mut client, "/count").await, "3", "the retry succeeds");
    assert_eq!(ok(&second, &mut client, "/count").await, "4");
    assert_eq!(ok(&first, &mut client, "/count").await, "5");
    assert_eq!(ok(&second, &mut client, "/count").await, "6");
}

/// A shop is disabled on one gateway only.
async fn gateways_that_disagree_permanently_lose_no_data(store: impl SessionStore + Clone) {
    let shops = shops(&store);
    let (first, second) = (open(&shops).await, open(&shops).await);
    let mut client = Client::default();
    assert_eq!(count_with_retry(&first, &mut client).await, "1");
    first.backends.set_mode(shop_of(&first), Mode::Disabled).unwrap();
    for (count, gateway) in (2..).zip([&first, &second, &second, &first, &second, &first, &first]) {
        assert_eq!(count_with_retry(gateway, &mut client).await, count.to_string());
    }
    let served = |gateway: &Gateway| {
        let served = |name: &&str| gateway.backends.get(name).unwrap().requests > 1;
        NAMES.into_iter().filter(served).collect::<Vec<_>>()
    };
    assert_ne!(served(&first), served(&second), "the gateways use different shops");
}

/// Counts, and retries once after a conflict.
async fn count_with_retry(gateway: &Gateway, client: &mut Client) -> String {
    let answer = get(gateway, client, "/count").await;
    if answer.status == StatusCode::CONFLICT {
        return ok(gateway, client, "/count").await;
    }
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}
