//! What the records of a look-up mean: the backends in them.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::id::BackendId;

/// The address and weight of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    /// `None` if the records have no weights.
    pub(crate) weight: Option<u32>,
}

/// The result of a look-up.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) found: BTreeMap<BackendId, Endpoint>,
    /// Known backends whose part of the look-up has failed.
    pub(super) unresolved: HashSet<BackendId>,
    /// Names that are not valid ids, and why.
    pub(super) invalid: Vec<(String, String)>,
    /// The smallest TTL.
    pub(super) ttl: Option<Duration>,
    /// Why the look-up has failed, at least in part.
    pub(super) failure: Option<String>,
}

/// The result of one query.
pub(crate) enum Records {
    Found(Vec<RData>, Duration),
    /// There are no such records, with the TTL of that answer if it has one.
    Missing(Option<Duration>),
    Failed(String),
}

impl Records {
    /// Those of this kind in the answer to a query. The records of an alias limit the TTL, too.
    pub(crate) fn of(answers: &[Record], kind: RecordType) -> Self {
        let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or_default();
        let ttl = Duration::from_secs(ttl.into());
        let wanted = answers.iter().filter(|record| record.record_type() == kind);
        let records: Vec<_> = wanted.map(|record| record.data.clone()).collect();
        if records.is_empty() { Self::Missing(Some(ttl)) } else { Self::Found(records, ttl) }
    }
}

/// A target of a service, to be resolved.
pub(crate) struct SrvTarget {
    pub(super) name: Name,
    pub(super) port: u16,
    pub(super) weight: u32,
}

impl Answer {
    pub(crate) fn limit_ttl(&mut self, ttl: Duration) {
        self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
    }

    pub(super) fn add(&mut self, id: String, address: SocketAddr, weight: Option<u32>) {
        match BackendId::new(&id) {
            Ok(id) => {
                self.found.insert(id, Endpoint { address, weight });
            }
            Err(why) => self.invalid.push((id, why.to_string())),
        }
    }

    /// Adds a target at its `current` address, if that is still among its addresses, or else at the lowest
    /// one.
    pub(crate) fn add_target(
        &mut self,
        id: BackendId,
        target: &SrvTarget,
        records: Records,
        current: Option<IpAddr>,
    ) {
        match records {
            Records::Found(records, ttl) => {
                self.limit_ttl(ttl);
                let mut ips: Vec<IpAddr> = records.iter().filter_map(RData::ip_addr).collect();
                ips.sort_unstable();
                let ip = current.filter(|ip| ips.contains(ip)).or(ips.first().copied());
                if let Some(ip) = ip {
                    let address = SocketAddr::new(ip, target.port);
                    self.found.insert(id, Endpoint { address, weight: Some(target.weight) });
                }
            }
            // The service still lists the target, so its backend stays.
            Records::Missing(_) => {
                self.failure = Some(format!("the target {id} has no address"));
                self.unresolved.insert(id);
            }
            Records::Failed(why) => {
                self.failure = Some(why);
                self.unresolved.insert(id);
            }
        }
    }

    /// Adds each address of a target. If several targets have an address, their weights are added.
    pub(crate) fn add_addresses(
        &mut self,
        target_id: &BackendId,
        target: &SrvTarget,
        records: Records,
    ) {
        match records {
            Records::Found(records, ttl) => {
                self.limit_ttl(ttl);
                for ip in records.iter().filter_map(RData::ip_addr) {
                    let address = SocketAddr::new(ip, target.port);
                    let known = BackendId::new(address.to_string()).ok();
                    let known = known.and_then(|id| self.found.get(&id)?.weight);
                    let weight = known.unwrap_or_default() + target.weight;
                    self.add(address.to_string(), address, Some(weight));
                }
            }
            Records::Missing(_) => {
                self.failure = Some(format!("the target {target_id} has no address"));
            }
            Records::Failed(why) => self.failure = Some(why),
        }
    }

    /// The targets of the lowest priority, by id.
    pub(crate) fn targets(&mut self, records: &[RData]) -> BTreeMap<BackendId, SrvTarget> {
        let services = || {
            records.iter().filter_map(|record| match record {
                // The root as target means that the service is not available (RFC 2782).
                RData::SRV(srv) if !srv.target.is_root() => Some(srv),
                _ => None,
            })
        };
        let first = services().map(|srv| srv.priority).min();
        let mut targets = BTreeMap::<BackendId, SrvTarget>::new();
        for srv in services().filter(|srv| Some(srv.priority) == first) {
            let name = srv.target.to_lowercase().to_ascii();
            let id = format!("{}:{}", name.trim_end_matches('.'), srv.port);
            match BackendId::new(&id) {
                Ok(id) => {
                    let weight = u32::from(srv.weight);
                    let target = SrvTarget { name: srv.target.clone(), port: srv.port, weight: 0 };
                    // The weights of a target that is listed twice are added.
                    targets.entry(id).or_insert(target).weight += weight;
                }
                Err(why) => self.invalid.push((id, why.to_string())),
            }
        }
        for target in targets.values_mut() {
            target.weight = target.weight.max(1);
        }
        targets
    }
}
