//! A key without a stored pin, and an id that names its backend, is always served by the first ready backend of its rank.

use std::{collections::BTreeMap, time::Duration};

use http::Method;
use serde_json::json;
use tower_sticky_heavy_tests::client::Client;

use crate::{
    alone,
    check::{Findings, Story},
    clients::{Clients, Life},
    exchange::{Exchange, Visitor},
    fleet::Fleet,
    kind::Kind,
    length,
    plan::{FAULTS, plan},
    random::Random,
    storm,
    timeline::{NAMES, What},
};

/// The backends of a key, by rank.
type Rank = Vec<usize>;

/// Disables one backend after the other, and records which one serves the key next.
async fn rank(fleet: &Fleet, kind: &Kind, user: &str) -> Rank {
    let mut client = Client::new(fleet.addr);
    let mut visitor = Visitor::named(kind.clone(), user, Random::new(0));
    let mut rank = Vec::new();
    while rank.len() < NAMES.len() {
        let exchange = visitor.ask_with(Method::GET, &mut client, 0).await;
        let server = exchange.server().expect("all are well");
        rank.push(server);
        fleet.admin.patch(NAMES[server], json!({ "mode": "disabled" })).await;
    }
    for name in NAMES {
        fleet.admin.patch(name, json!({ "mode": "active" })).await;
    }
    rank
}

/// Whether a request may skip `backend`.
fn may_be_out(story: &Story, backend: usize, exchange: &Exchange) -> bool {
    story.spells.iter().any(|spell| {
        // A suspect that is stopped stays a suspect.
        let in_doubt = spell.what == What::Pause && !spell.aftermath.is_zero();
        spell.backend == backend
            && (spell.what.moves() || in_doubt)
            && spell.meets(exchange.sent, exchange.ended, spell.aftermath)
    })
}

fn check_rank(story: &Story, life: &Life, rank: &Rank, findings: &mut Findings) {
    for exchange in &life.exchanges {
        let Some(server) = exchange.server() else { continue };
        let before = rank.iter().take_while(|backend| **backend != server);
        if before.clone().any(|backend| !may_be_out(story, *backend, exchange)) {
            findings.add(
                "A key was not with the first of its rank that is well.",
                &(rank, exchange, story.around(exchange, Duration::from_secs(1))),
            );
        }
        if exchange.sent >= story.quiet && server != rank[0] {
            findings.add("A key was not with its owner after the faults.", exchange);
        }
    }
}

async fn run(kind: Kind, mut random: Random) {
    let plan = plan(&mut random, length(), &FAULTS, true);
    let fleet = Fleet::start(&kind).await;
    let mut ranks = BTreeMap::new();
    let regulars = Clients::regulars(&kind, &mut random);
    for visitor in &regulars {
        ranks.insert(visitor.user.clone(), rank(&fleet, &kind, &visitor.user).await);
    }
    let clients = Clients::start(fleet.addr, &kind, regulars, &mut random);
    let (story, mut findings) = storm::survive(&fleet, clients, plan).await;
    story.check_requests(&mut findings);
    for life in &story.lives {
        if let Some(rank) = ranks.get(&life.user) {
            check_rank(&story, life, rank, &mut findings);
        }
    }
    findings.assert_none();
}

#[test]
fn key() {
    alone("key", |random| run(Kind::Key, random));
}

#[test]
fn route() {
    alone("route", |random| run(Kind::Route, random));
}
