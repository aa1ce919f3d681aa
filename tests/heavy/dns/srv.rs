//! Backends from the targets of a service.

use std::time::Duration;

use tower_sticky::{
    Mode,
    discovery::{
        Dns,
        hickory_resolver::proto::{op::ResponseCode, rr::RecordType},
    },
};
use tower_sticky_heavy_tests::{in_time, until};

use crate::{
    server::{NameServer, Reply},
    support::{SERVICE, Servers, Setup, refresh_at_once},
};

#[tokio::test]
async fn a_target_at_a_new_address_keeps_its_sessions() {
    let names = NameServer::start().await;
    names.service(SERVICE, &[(1, 5, 8080, "Node-A.shop.test."), (1, 0, 8080, "node-b.shop.test.")]);
    names.addresses("node-a.shop.test.", 0, &["10.0.0.1"]);
    names.addresses("node-b.shop.test.", 0, &["fd00::2"]);
    let servers = Servers::with(&["10.0.0.1", "fd00::2", "10.0.0.9"]);
    let setup = Setup::new(names, servers, refresh_at_once(Dns::srv(SERVICE))).await;
    let (a, b) = ("node-a.shop.test:8080", "node-b.shop.test:8080");
    setup.until_ids(&[a, b]).await;
    let weights = || [a, b].map(|id| setup.backends.get(id).unwrap().weight);
    assert_eq!(weights(), [5, 1], "the weights of the records, with 0 as 1");
    let (_, token) = setup.send(None).await;
    let mut sid = token.unwrap();
    while sid != a {
        sid = setup.send(None).await.1.unwrap();
    }
    assert_eq!(setup.send(Some(&sid)).await, ("10.0.0.1".to_owned(), None));

    setup.backends.set_mode(a, Mode::Draining).unwrap();
    setup.backends.set_weight(b, 7).unwrap();
    setup.names.addresses("node-a.shop.test.", 0, &["10.0.0.9"]);
    let moved = async {
        while setup.send(Some(&sid)).await != ("10.0.0.9".to_owned(), None) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    in_time("the session reaches its backend at the new address", moved).await;
    let status = setup.backends.get(a).unwrap();
    assert!(status.requests >= 3, "its counters are kept");
    assert_eq!(status.mode, Mode::Draining, "its mode is kept");
    assert_eq!(weights(), [5, 7], "a weight set by hand is kept until the record changes");

    setup
        .names
        .service(SERVICE, &[(1, 5, 8080, "node-a.shop.test."), (1, 3, 8080, "node-b.shop.test.")]);
    until("the new weight of b", || weights() == [5, 3]).await;
}

#[tokio::test]
async fn only_records_with_the_lowest_priority_are_used() {
    let names = NameServer::start().await;
    let (a, b) = ("node-a.shop.test.", "node-b.shop.test.");
    names.service(SERVICE, &[(10, 1, 80, b), (5, 1, 80, a)]);
    names.addresses(a, 0, &["10.0.0.1"]);
    names.addresses(b, 0, &["10.0.0.2"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2"]);
    let setup = Setup::new(names, servers, refresh_at_once(Dns::srv(SERVICE))).await;
    setup.until_ids(&["node-a.shop.test:80"]).await;
    setup.until_look_ups(1).await;
    assert_eq!(setup.ids(), ["node-a.shop.test:80"]);
    setup.names.service(SERVICE, &[(10, 1, 80, b)]);
    setup.until_ids(&["node-b.shop.test:80"]).await;
    // The target "." means that there is no service, which by default counts as a failure.
    setup.names.service(SERVICE, &[(0, 0, 0, ".")]);
    setup.until_look_ups(2).await;
    assert_eq!(setup.ids(), ["node-b.shop.test:80"]);
}

#[tokio::test]
async fn a_target_whose_address_cannot_be_resolved_keeps_its_address() {
    let names = NameServer::start().await;
    let (a, b) = ("node-a.shop.test.", "node-b.shop.test.");
    names.service(SERVICE, &[(1, 1, 80, a)]);
    names.addresses(a, 0, &["10.0.0.3", "10.0.0.1"]);
    names.addresses(b, 0, &["10.0.0.2"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2"]);
    let setup = Setup::new(names, servers, refresh_at_once(Dns::srv(SERVICE))).await;
    setup.until_ids(&["node-a.shop.test:80"]).await;
    assert_eq!(
        setup.send(Some("node-a.shop.test:80")).await.0,
        "10.0.0.1",
        "the lowest address is used"
    );
    // The address in use is kept although a lower one is listed.
    setup.names.addresses(a, 0, &["10.0.0.0", "10.0.0.1"]);
    setup.until_look_ups(2).await;
    assert_eq!(setup.handle.stats().skipped, 0, "no other address is tried");
    for reply in [Reply::Code(ResponseCode::ServFail), Reply::Code(ResponseCode::NXDomain)] {
        for kind in [RecordType::A, RecordType::AAAA] {
            setup.names.set(a, kind, reply.clone());
        }
        setup.until_look_ups(2).await;
        assert_eq!(setup.ids(), ["node-a.shop.test:80"], "{reply:?}");
    }
    setup.names.service(SERVICE, &[(1, 1, 80, a), (1, 1, 80, b)]);
    setup.until_ids(&["node-a.shop.test:80", "node-b.shop.test:80"]).await;
    assert_eq!(setup.send(Some("node-a.shop.test:80")).await.0, "10.0.0.1");
}

#[tokio::test]
async fn the_addresses_of_the_targets_can_be_the_backends() {
    let names = NameServer::start().await;
    let (a, b) = ("node-a.shop.test.", "node-b.shop.test.");
    names.service(SERVICE, &[(1, 5, 80, a), (1, 2, 80, b), (9, 1, 80, "spare.shop.test.")]);
    names.addresses(a, 0, &["10.0.0.1", "10.0.0.2"]);
    names.addresses(b, 0, &["10.0.0.2", "fd00::3"]);
    let servers = Servers::with(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::3"]);
    let dns = refresh_at_once(Dns::srv(SERVICE)).address_ids(true);
    let setup = Setup::new(names, servers, dns).await;
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80"]).await;
    let weight = |id: &str| setup.backends.get(id).unwrap().weight;
    assert_eq!(
        (weight("10.0.0.1:80"), weight("10.0.0.2:80")),
        (5, 7),
        "the weights of an address that two targets have are added"
    );
    setup.names.addresses(b, 0, &["10.0.0.3"]);
    setup.until_ids(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]).await;
    assert_eq!((weight("10.0.0.2:80"), weight("10.0.0.3:80")), (5, 2));
    assert_eq!(setup.send(Some("10.0.0.2:80")).await, ("10.0.0.2".to_owned(), None));

    // While a target fails, none of the backends is removed: any of them could be its.
    for kind in [RecordType::A, RecordType::AAAA] {
        setup.names.set(b, kind, Reply::Code(ResponseCode::ServFail));
    }
    setup.names.addresses(a, 0, &["10.0.0.1"]);
    setup.until_look_ups(3).await;
    assert_eq!(setup.ids(), ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    setup.names.service(SERVICE, &[(1, 5, 80, a)]);
    setup.until_ids(&["10.0.0.1:80"]).await;
}
