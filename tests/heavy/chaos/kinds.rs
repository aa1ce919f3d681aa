//! Affinities that store a pin.

use tower_sticky_heavy_tests::redis_server::RedisServer;

use crate::{
    alone,
    clients::Clients,
    fleet::Fleet,
    kind::Kind,
    length,
    plan::{FAULTS, plan},
    random::Random,
    storm,
    timeline::What,
};

async fn run(kind: Kind, mut random: Random) {
    let faults = [&FAULTS[..], &[What::Drain, What::Weigh]].concat();
    let plan = plan(&mut random, length(), &faults, true);
    let fleet = Fleet::start(&kind).await;
    let regulars = Clients::regulars(&kind, &mut random);
    let clients = Clients::start(fleet.addr, &kind, regulars, &mut random);
    let (story, mut findings) = storm::survive(&fleet, clients, plan).await;
    story.check_requests(&mut findings);
    story.check_moves(kind.memory(), &mut findings);
    findings.assert_none();
}

#[test]
fn plain_cookie() {
    alone("plain cookie", |random| run(Kind::Plain, random));
}

#[test]
fn sealed_cookie() {
    alone("sealed cookie", |random| run(Kind::Sealed, random));
}

#[test]
fn header() {
    alone("header", |random| run(Kind::Header, random));
}

#[test]
fn learned() {
    alone("learned", |random| run(Kind::Learned, random));
}

#[test]
fn learned_on_redis() {
    let server = RedisServer::start();
    alone("learned on Redis", |random| run(Kind::LearnedOnRedis(server.url()), random));
}

#[test]
fn location() {
    alone("location", |random| run(Kind::Location, random));
}

#[test]
fn envelope() {
    alone("envelope", |random| run(Kind::Envelope, random));
}
