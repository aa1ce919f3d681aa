//! The page `deployments`: users of two versions.

use std::time::Duration;

use http::Method;
use serde_json::Value;

use crate::{
    backends::{Backend, echo},
    client::{self, Client},
    listener::Listener,
    page,
};

/// Users who have begun: nine on the old version, and one on the new one.
struct Setup {
    _servers: [Backend; 2],
    gateway: crate::process::Gateway,
    admin: std::net::SocketAddr,
    users: Vec<(Client, String)>,
}

impl Setup {
    async fn new() -> Self {
        let servers = [echo("v1-a").await, echo("v2-a").await];
        let ports = servers.each_ref().map(|server| server.addr.port());
        let mut gateway = page::gateway("deployments.md", 0, &ports).await;
        let admin = gateway.admin_addr().await;
        let mut setup = Self { _servers: servers, gateway, admin, users: Vec::new() };
        setup.users_begin(10).await;
        assert_eq!(setup.count("v1-a"), 9, "new users follow the weights");
        setup
    }

    async fn users_begin(&mut self, count: usize) {
        for _ in 0..count {
            let mut user = Client::new(self.gateway.addr);
            let server = user.get("/").await.backend();
            self.users.push((user, server));
        }
    }

    fn count(&self, server: &str) -> usize {
        self.users.iter().filter(|(_, home)| home == server).count()
    }

    async fn change(&self, id: &str, change: &str) {
        let path = format!("/backends/{id}");
        let answer = client::send(self.admin, Method::PATCH, &path, &[], change).await;
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    async fn assert_users_stay(&mut self) {
        for (user, home) in &mut self.users {
            for _ in 0..3 {
                assert_eq!(user.get("/").await.backend(), *home, "users stay on their version");
            }
        }
    }

    async fn stats(&self) -> Value {
        client::get(self.admin, "/stats").await.json()
    }
}

#[tokio::test]
async fn users_stay_on_their_version_while_the_weights_change() {
    let mut setup = Setup::new().await;
    for (weights, new, on_old) in [((1, 1), 10, 5), ((0, 1), 10, 0)] {
        setup.change("v1-a", &format!("{{\"weight\":{}}}", weights.0)).await;
        setup.change("v2-a", &format!("{{\"weight\":{}}}", weights.1)).await;
        let before = setup.count("v1-a");
        setup.users_begin(new).await;
        assert_eq!(
            setup.count("v1-a") - before,
            on_old,
            "new users follow the weights {weights:?}"
        );
        setup.assert_users_stay().await;
    }
    assert_eq!(setup.stats().await["moves"], 0);
}

#[tokio::test]
async fn a_drain_carries_the_rest_over_at_its_deadline() {
    let mut setup = Setup::new().await;
    setup.change("v1-a", "{\"weight\":0}").await;
    setup.assert_users_stay().await;
    let mut events = Listener::new(setup.admin).await;
    setup.change("v1-a", r#"{"mode":"draining","deadline":"300ms"}"#).await;
    events.next_of("drained").await;
    for (user, home) in &mut setup.users {
        "v2-a".clone_into(home);
        assert_eq!(user.get("/").await.backend(), "v2-a");
    }
    setup.assert_users_stay().await;
    assert_eq!(setup.stats().await["moves"], 9, "each user of the old version has moved once");
    assert_eq!(setup.stats().await["outcomes"]["rejected"], 0);
}

#[tokio::test]
async fn a_drain_that_hands_over_moves_a_few_in_a_second() {
    let mut setup = Setup::new().await;
    setup.change("v1-a", r#"{"mode":"draining","deadline":"10m","hand_over":20}"#).await;
    let moved = async {
        loop {
            let mut on_new = 0;
            for (user, _) in &mut setup.users {
                let answer = user.get("/").await;
                assert_eq!(answer.status, 200);
                on_new += usize::from(answer.backend() == "v2-a");
            }
            if on_new == setup.users.len() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::process::FOREVER, moved).await.expect("everybody moves");
    assert_eq!(setup.stats().await["moves"], 9);
}
