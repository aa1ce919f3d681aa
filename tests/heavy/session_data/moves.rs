//! Sessions that move, with each kind of store.

use axum::http::StatusCode;
use tower_sessions::{CachingSessionStore, SessionStore};
use tower_sticky::session_data::{MemoryStore, RedisStore};
use tower_sticky_heavy_tests::{in_time, redis_server::RedisServer};

use super::{
    next_millisecond,
    shops::{Client, Fleet, shop},
};

over_both_stores!(
    a_count_survives_moves,
    a_count_is_lost_without_the_fence,
    a_slow_request_of_the_previous_owner_is_refused,
    a_load_is_enough_to_refuse_the_previous_owner,
    a_logout_on_another_shop_drops_the_copy,
    a_slow_request_cannot_undo_a_logout,
    two_requests_that_move_a_session_do_not_lock_it,
);

/// The counts of consecutive requests to these shops.
async fn counts(fleet: &Fleet, shops: [&str; 6]) -> Vec<String> {
    let mut client = Client::default();
    let mut counts = Vec::new();
    for shop in shops {
        fleet.only(shop);
        counts.push(client.ok(fleet, "/count").await);
    }
    counts
}

const MOVES: [&str; 6] = ["a", "a", "b", "b", "a", "b"];

async fn a_count_survives_moves(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    assert_eq!(counts(&fleet, MOVES).await, ["1", "2", "3", "4", "5", "6"]);
}

/// The negative control.
async fn a_count_is_lost_without_the_fence(store: impl SessionStore + Clone) {
    let fleet =
        Fleet::new(|slow| shop(CachingSessionStore::new(MemoryStore::new(), store.clone()), slow));
    let counts = counts(&fleet, MOVES).await;
    assert_eq!(counts, ["1", "2", "3", "4", "3", "5"], "outdated copies are read and saved");
}

/// A fleet, and a client that has counted to 1 on `a`.
async fn counted_on_a(store: &(impl SessionStore + Clone)) -> (Fleet, Client) {
    let fleet = Fleet::fenced(store);
    let mut client = Client::default();
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "1");
    (fleet, client)
}

/// Sends a slow request of `tab`. `meanwhile` runs after the request has loaded the session, and before it
/// saves the session, which is refused.
async fn refuse_slow_request(fleet: &Fleet, mut tab: Client, meanwhile: impl Future<Output = ()>) {
    let slow = async {
        let answer = tab.get(fleet, "/slow").await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "its save is refused: {}", answer.body);
    };
    let meanwhile = async {
        fleet.slow.loaded.acquire().await.unwrap().forget();
        meanwhile.await;
        fleet.slow.may_save.add_permits(1);
    };
    in_time("both are served", async { tokio::join!(slow, meanwhile) }).await;
}

async fn a_slow_request_of_the_previous_owner_is_refused(store: impl SessionStore + Clone) {
    let (fleet, mut client) = counted_on_a(&store).await;
    let other_tab = client.clone();
    let move_to_b = async {
        fleet.only("b");
        assert_eq!(client.ok(&fleet, "/count").await, "2");
        assert_eq!(client.ok(&fleet, "/count").await, "3");
    };
    refuse_slow_request(&fleet, other_tab, move_to_b).await;
    assert_eq!(client.ok(&fleet, "/count").await, "4", "no count is overwritten");
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "5");
}

async fn a_load_is_enough_to_refuse_the_previous_owner(store: impl SessionStore + Clone) {
    let (fleet, mut client) = counted_on_a(&store).await;
    let other_tab = client.clone();
    let load_on_b = async {
        fleet.only("b");
        assert_eq!(client.ok(&fleet, "/read").await, "1");
    };
    refuse_slow_request(&fleet, other_tab, load_on_b).await;
    assert_eq!(client.ok(&fleet, "/read").await, "1", "the session has not changed");
    assert_eq!(client.ok(&fleet, "/count").await, "2");
}

async fn a_logout_on_another_shop_drops_the_copy(store: impl SessionStore + Clone) {
    let (fleet, mut client) = counted_on_a(&store).await;
    assert_eq!(client.ok(&fleet, "/read").await, "1", "it is read from a copy");
    let session = client.jar["id"].clone();
    fleet.only("b");
    assert_eq!(client.ok(&fleet, "/logout").await, "bye");
    assert!(!client.jar.contains_key("id"), "the cookie is removed");
    client.jar.insert("id".to_owned(), session.clone());
    assert_eq!(client.ok(&fleet, "/read").await, "none", "on the shop of the logout");
    fleet.only("a");
    client.jar.insert("id".to_owned(), session.clone());
    assert_eq!(client.ok(&fleet, "/read").await, "none", "on the shop with the copy");
    let mut stranger = Client::default();
    stranger.jar.insert("id".to_owned(), session);
    assert_eq!(stranger.ok(&fleet, "/read").await, "none", "without a token");
    assert_eq!(client.ok(&fleet, "/count").await, "1", "a new session begins");
}

async fn a_slow_request_cannot_undo_a_logout(store: impl SessionStore + Clone) {
    let (fleet, mut client) = counted_on_a(&store).await;
    let before = client.clone();
    let other_tab = client.clone();
    // On the same backend, in the same epoch.
    let logout = async { drop(client.ok(&fleet, "/logout").await) };
    refuse_slow_request(&fleet, other_tab, logout).await;
    assert_eq!(before.clone().ok(&fleet, "/read").await, "none");
}

async fn two_requests_that_move_a_session_do_not_lock_it(store: impl SessionStore + Clone) {
    let (fleet, mut client) = counted_on_a(&store).await;
    let mut other_tab = client.clone();
    fleet.only("b");
    assert_eq!(client.ok(&fleet, "/count").await, "2");
    next_millisecond().await;
    assert_eq!(other_tab.ok(&fleet, "/count").await, "3", "in a later epoch on the same backend");
    for count in 4..8 {
        assert_eq!(client.ok(&fleet, "/count").await, count.to_string(), "with the earlier token");
    }
    // Another request moves the session, and this client keeps the earlier token.
    next_millisecond().await;
    fleet.only("c");
    assert_eq!(other_tab.ok(&fleet, "/count").await, "8");
    fleet.only("b");
    let refused = client.get(&fleet, "/count").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "shop c owns the session");
    assert!(!client.jar.contains_key("sticky"), "the outdated pin is removed");
    next_millisecond().await;
    assert_eq!(client.ok(&fleet, "/count").await, "9", "the session keeps its data");
}
