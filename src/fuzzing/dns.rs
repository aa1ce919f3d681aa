//! What the records of a DNS look-up mean.

use std::net::SocketAddr;

use hickory_resolver::proto::rr::{Record, RecordType};

use crate::discovery::{Answer, Records};

/// The id, the address and the weight of each backend in the answers to the queries for a service (SRV) and for the
/// addresses of its targets. `addresses` has the answer for one target after the other, and starts again after the last
/// one.
pub fn service_backends(
    services: &[Record],
    addresses: &[Vec<Record>],
    address_ids: bool,
) -> Vec<(String, SocketAddr, Option<u32>)> {
    let mut answer = Answer::default();
    let Records::Found(services, ttl) = Records::of(services, RecordType::SRV) else {
        return Vec::new();
    };
    answer.limit_ttl(ttl);
    let targets = answer.targets(&services);
    for ((id, target), records) in targets.into_iter().zip(addresses.iter().cycle()) {
        let records = Records::of(records, RecordType::A);
        if address_ids {
            answer.add_addresses(&id, &target, records);
        } else {
            answer.add_target(id, &target, records, None);
        }
    }
    let found = answer.found.iter();
    found.map(|(id, end)| (id.as_str().to_owned(), end.address, end.weight)).collect()
}
