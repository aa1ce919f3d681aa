//! Sessions that move, over each kind of store.

use axum::http::StatusCode;
use tower_sessions::{CachingSessionStore, SessionStore};
use tower_sticky::session_data::{MemoryStore, RedisStore};
use tower_sticky_heavy_tests::{in_time, redis_server::RedisServer};

use super::{
    next_millisecond,
    shops::{Client, Fleet, shop},
};

over_both_stores!(
    a_counter_counts_through_moves,
    without_the_fence_it_does_not,
    a_slow_request_of_the_old_owner_is_refused,
    reading_is_enough_to_keep_the_old_owner_out,
    a_logout_elsewhere_is_a_logout_here,
    a_logout_cannot_be_undone_by_a_slow_request,
    two_requests_that_move_at_once_do_not_lock_the_session,
);

/// What a counter says on these shops, one request after the other.
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

async fn a_counter_counts_through_moves(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    assert_eq!(counts(&fleet, MOVES).await, ["1", "2", "3", "4", "5", "6"]);
}

/// The control: what the fence is for.
async fn without_the_fence_it_does_not(store: impl SessionStore + Clone) {
    let fleet =
        Fleet::new(|slow| shop(CachingSessionStore::new(MemoryStore::new(), store.clone()), slow));
    let counts = counts(&fleet, MOVES).await;
    assert_eq!(counts, ["1", "2", "3", "4", "3", "5"], "old copies are read, and saved");
}

async fn a_slow_request_of_the_old_owner_is_refused(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "1");
    let mut other_tab = client.clone();
    let slow = async {
        let answer = other_tab.get(&fleet, "/slow").await;
        assert_eq!(answer.status, StatusCode::CONFLICT, "it is too late: {}", answer.body);
    };
    let meanwhile = async {
        fleet.slow.have_read.acquire().await.unwrap().forget();
        fleet.only("b");
        assert_eq!(client.ok(&fleet, "/count").await, "2");
        assert_eq!(client.ok(&fleet, "/count").await, "3");
        fleet.slow.may_write.add_permits(1);
    };
    in_time("both are served", async { tokio::join!(slow, meanwhile) }).await;
    assert_eq!(client.ok(&fleet, "/count").await, "4", "nothing is erased");
    fleet.only("a");
    assert_eq!(client.ok(&fleet, "/count").await, "5");
}

async fn reading_is_enough_to_keep_the_old_owner_out(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    let mut other_tab = client.clone();
    let slow = async {
        assert_eq!(other_tab.get(&fleet, "/slow").await.status, StatusCode::CONFLICT);
    };
    let meanwhile = async {
        fleet.slow.have_read.acquire().await.unwrap().forget();
        fleet.only("b");
        assert_eq!(client.ok(&fleet, "/read").await, "1");
        fleet.slow.may_write.add_permits(1);
    };
    in_time("both are served", async { tokio::join!(slow, meanwhile) }).await;
    assert_eq!(client.ok(&fleet, "/read").await, "1", "what was read is still so");
    assert_eq!(client.ok(&fleet, "/count").await, "2");
}

async fn a_logout_elsewhere_is_a_logout_here(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    assert_eq!(client.ok(&fleet, "/read").await, "1", "a has a copy");
    let session = client.jar["id"].clone();
    fleet.only("b");
    assert_eq!(client.ok(&fleet, "/logout").await, "bye");
    assert!(!client.jar.contains_key("id"), "the browser forgets it");
    client.jar.insert("id".to_owned(), session.clone());
    assert_eq!(client.ok(&fleet, "/read").await, "nobody", "where the logout was");
    fleet.only("a");
    client.jar.insert("id".to_owned(), session.clone());
    assert_eq!(client.ok(&fleet, "/read").await, "nobody", "where the copy is");
    let mut stranger = Client::default();
    stranger.jar.insert("id".to_owned(), session);
    assert_eq!(stranger.ok(&fleet, "/read").await, "nobody", "with no token of ours");
    assert_eq!(client.ok(&fleet, "/count").await, "1", "a new session begins");
}

async fn a_logout_cannot_be_undone_by_a_slow_request(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    let before = client.clone();
    let mut other_tab = client.clone();
    let slow = async {
        assert_eq!(other_tab.get(&fleet, "/slow").await.status, StatusCode::CONFLICT);
    };
    let meanwhile = async {
        fleet.slow.have_read.acquire().await.unwrap().forget();
        // The same backend, and the same epoch.
        client.ok(&fleet, "/logout").await;
        fleet.slow.may_write.add_permits(1);
    };
    in_time("both are served", async { tokio::join!(slow, meanwhile) }).await;
    assert_eq!(before.clone().ok(&fleet, "/read").await, "nobody");
}

async fn two_requests_that_move_at_once_do_not_lock_the_session(store: impl SessionStore + Clone) {
    let fleet = Fleet::fenced(&store);
    let mut client = Client::default();
    fleet.only("a");
    client.ok(&fleet, "/count").await;
    let mut other_tab = client.clone();
    fleet.only("b");
    assert_eq!(client.ok(&fleet, "/count").await, "2");
    next_millisecond().await;
    assert_eq!(other_tab.ok(&fleet, "/count").await, "3", "a later epoch, the same backend");
    for count in 4..8 {
        assert_eq!(client.ok(&fleet, "/count").await, count.to_string(), "the earlier token");
    }
    // Another gateway sends it elsewhere, and this browser keeps the earlier token.
    next_millisecond().await;
    fleet.only("c");
    assert_eq!(other_tab.ok(&fleet, "/count").await, "8");
    fleet.only("b");
    let refused = client.get(&fleet, "/count").await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "c has it");
    assert!(!client.jar.contains_key("sticky"), "a pin that is worth nothing is taken away");
    next_millisecond().await;
    assert_eq!(client.ok(&fleet, "/count").await, "9", "the session goes on");
}
