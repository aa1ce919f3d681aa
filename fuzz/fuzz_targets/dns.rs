//! The answers of name servers: which backends the records of a service are, against a slow reference.

#![no_main]

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tower_sticky::{
    discovery::hickory_resolver::proto::{
        op::Message,
        rr::{Name, RData, Record, rdata::SRV},
    },
    fuzzing::service_backends,
};

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    /// A message as it comes from the network.
    Raw(&'a [u8], bool),
    Records(Vec<Service>, Vec<Vec<[u8; 4]>>, bool),
}

#[derive(Debug, Arbitrary)]
struct Service {
    name: u8,
    port: u16,
    priority: u8,
    weight: u16,
    /// Whether it is an address, among the services.
    stray: bool,
}

const NAMES: [&str; 6] = ["a.shop.", "A.Shop.", "b.shop", ".", "*.shop.", "b"];

fn name(number: u8) -> Name {
    NAMES[usize::from(number) % NAMES.len()].parse().expect("a name")
}

fn record(service: &Service) -> Record {
    let data = match service.stray {
        true => RData::A(Ipv4Addr::LOCALHOST.into()),
        false => {
            let priority = (service.priority % 4).into();
            RData::SRV(SRV::new(priority, service.weight, service.port, name(service.name)))
        }
    };
    Record::from_rdata(name(0), 60, data)
}

/// The services of the lowest priority by id, with the sum of their weights.
fn targets(records: &[Record]) -> BTreeMap<String, (u16, u32)> {
    let mut targets = BTreeMap::new();
    let services: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) if srv.target.to_ascii() != "." => Some(srv),
            _ => None,
        })
        .collect();
    let Some(lowest) = services.iter().map(|srv| srv.priority).min() else { return targets };
    for srv in services {
        let text = srv.target.to_ascii().to_ascii_lowercase();
        let id = format!("{}:{}", text.trim_end_matches('.'), srv.port);
        let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
        let is_id = id.len() <= 128 && id.bytes().all(is_allowed);
        if srv.priority == lowest && is_id {
            targets.entry(id).or_insert((srv.port, 0)).1 += u32::from(srv.weight);
        }
    }
    targets
}

fn check(records: &[Record], addresses: &[Vec<Record>], address_ids: bool) {
    let found = service_backends(records, addresses, address_ids);
    let targets = targets(records);
    let mut expected = BTreeMap::<String, (SocketAddr, u32)>::new();
    for ((id, (port, weight)), records) in targets.iter().zip(addresses.iter().cycle()) {
        let mut ips: Vec<_> = records.iter().filter_map(|record| record.data.ip_addr()).collect();
        ips.sort_unstable();
        for ip in if address_ids { &ips[..] } else { ips.get(..1).unwrap_or_default() } {
            let address = SocketAddr::new(*ip, *port);
            let id = if address_ids { address.to_string() } else { id.clone() };
            expected.entry(id).or_insert((address, 0)).1 += weight.max(&1);
        }
    }
    let expected: Vec<_> =
        expected.into_iter().map(|(id, (address, weight))| (id, address, Some(weight))).collect();
    let mut found = found;
    found.sort();
    assert_eq!(found, expected);
}

fuzz_target!(|input: Input<'_>| {
    match input {
        Input::Raw(bytes, address_ids) => {
            let Ok(message) = Message::from_vec(bytes) else { return };
            let addresses = [message.additionals.clone(), message.answers.clone()].map(|records| {
                let is_v4 = |record: &Record| matches!(record.data, RData::A(_));
                records.into_iter().filter(is_v4).collect::<Vec<_>>()
            });
            check(&message.answers, &addresses, address_ids);
        }
        Input::Records(services, addresses, address_ids) => {
            let services: Vec<_> = services.iter().map(record).collect();
            let address = |ip: &[u8; 4]| {
                Record::from_rdata(name(2), 60, RData::A(Ipv4Addr::from(*ip).into()))
            };
            let addresses: Vec<Vec<_>> =
                addresses.iter().map(|ips| ips.iter().map(address).collect()).collect();
            check(&services, &addresses, address_ids);
        }
    }
});
