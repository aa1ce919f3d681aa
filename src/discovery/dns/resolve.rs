//! One look-up: the DNS queries, and the backends in their answers.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    net::{DnsError, NetError},
    proto::rr::{Name, RData, RecordType},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::id::BackendId;

/// The number of targets that are resolved concurrently. A connection to a name server takes 32 queries.
const CONCURRENCY: usize = 8;

pub(super) struct Resolver {
    pub(super) resolver: TokioResolver,
    /// Whether the cache is cleared before each look-up: no other code uses this resolver.
    pub(super) clear_cache: bool,
}

/// The name to resolve.
pub(super) struct Query {
    pub(super) resolver: Resolver,
    pub(super) name: Name,
    /// The port of the backends. `None` to use SRV records, which contain the ports.
    pub(super) port: Option<u16>,
    /// Whether each address of a service's targets is a backend.
    pub(super) address_ids: bool,
    pub(super) timeout: Duration,
}

/// The address and weight of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// `None` if the records have no weights.
    pub(super) weight: Option<u32>,
}

/// The result of a look-up.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) found: BTreeMap<BackendId, Endpoint>,
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
enum Records {
    Found(Vec<RData>, Duration),
    /// There are no such records, with the TTL of that answer if it has one.
    Missing(Option<Duration>),
    Failed(String),
}

impl Query {
    /// Resolves the name. `known` are the backends of the previous look-ups.
    pub(super) async fn run(&self, known: &HashMap<BackendId, Endpoint>) -> Answer {
        if self.resolver.clear_cache {
            // The TTLs have passed, except for rounding, or the last look-up has failed.
            self.resolver.resolver.clear_cache();
        }
        let deadline = Instant::now() + self.timeout;
        match self.port {
            Some(port) => self.host(port, known, deadline).await,
            None => self.srv(known, deadline).await,
        }
    }

    async fn host(
        &self,
        port: u16,
        known: &HashMap<BackendId, Endpoint>,
        deadline: Instant,
    ) -> Answer {
        let resolver = &self.resolver.resolver;
        let mut aaaa = JoinSet::new();
        aaaa.spawn(ask(resolver.clone(), self.name.clone(), RecordType::AAAA, deadline));
        let v4 = ask(resolver.clone(), self.name.clone(), RecordType::A, deadline).await;
        let v6 = match aaaa.join_next().await {
            Some(Ok(records)) => records,
            _ => Records::Failed("the look-up was cancelled".to_owned()),
        };
        let mut answer = Answer::default();
        for (records, is_v4) in [(v4, true), (v6, false)] {
            match records {
                Records::Found(records, ttl) => {
                    answer.limit_ttl(ttl);
                    for ip in records.iter().filter_map(RData::ip_addr) {
                        let address = SocketAddr::new(ip, port);
                        answer.add(address.to_string(), address, None);
                    }
                }
                // The TTL of a negative answer does not limit that of the other family.
                Records::Missing(_) => {}
                Records::Failed(why) => {
                    let family =
                        known.iter().filter(|(_, endpoint)| endpoint.address.is_ipv4() == is_v4);
                    answer.unresolved.extend(family.map(|(id, _)| id.clone()));
                    answer.failure = Some(why);
                }
            }
        }
        answer
    }

    async fn srv(&self, known: &HashMap<BackendId, Endpoint>, deadline: Instant) -> Answer {
        let mut answer = Answer::default();
        let resolver = &self.resolver.resolver;
        let records = ask(resolver.clone(), self.name.clone(), RecordType::SRV, deadline).await;
        let (records, ttl) = match records {
            Records::Found(records, ttl) => (records, ttl),
            Records::Missing(ttl) => {
                answer.ttl = ttl;
                return answer;
            }
            Records::Failed(why) => {
                answer.unresolved.extend(known.keys().cloned());
                answer.failure = Some(why);
                return answer;
            }
        };
        answer.limit_ttl(ttl);
        let mut targets = answer.targets(&records).into_iter();
        let mut resolving = JoinSet::new();
        loop {
            while resolving.len() < CONCURRENCY
                && let Some((id, target)) = targets.next()
            {
                let resolver = resolver.clone();
                resolving.spawn(async move {
                    let records = addresses(resolver, target.name.clone(), deadline).await;
                    (id, target, records)
                });
            }
            let Some(joined) = resolving.join_next().await else {
                break;
            };
            match joined {
                Ok((id, target, records)) if self.address_ids => {
                    answer.add_addresses(&id, &target, records);
                }
                Ok((id, target, records)) => {
                    let current = known.get(&id).map(|endpoint| endpoint.address.ip());
                    answer.add_target(id, &target, records, current);
                }
                Err(_) => {
                    // The id is lost with the task, so all backends stay.
                    answer.unresolved.extend(known.keys().cloned());
                    answer.failure = Some("the look-up of a target was cancelled".to_owned());
                }
            }
        }
        if self.address_ids && answer.failure.is_some() {
            // Which of them are addresses of the failed target is not known.
            answer.unresolved.extend(known.keys().cloned());
        }
        answer
    }
}

/// A target of a service, to be resolved.
struct SrvTarget {
    name: Name,
    port: u16,
    weight: u32,
}

impl Answer {
    fn limit_ttl(&mut self, ttl: Duration) {
        self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
    }

    fn add(&mut self, id: String, address: SocketAddr, weight: Option<u32>) {
        match BackendId::new(&id) {
            Ok(id) => {
                self.found.insert(id, Endpoint { address, weight });
            }
            Err(why) => self.invalid.push((id, why.to_string())),
        }
    }

    /// Adds a target at its `current` address, if that is still among its addresses, or else at the lowest
    /// one.
    fn add_target(
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
    fn add_addresses(&mut self, target_id: &BackendId, target: &SrvTarget, records: Records) {
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
    fn targets(&mut self, records: &[RData]) -> BTreeMap<BackendId, SrvTarget> {
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

/// Resolves A records, or AAAA records if there are none.
async fn addresses(resolver: TokioResolver, name: Name, deadline: Instant) -> Records {
    match ask(resolver.clone(), name.clone(), RecordType::A, deadline).await {
        Records::Missing(_) => ask(resolver, name, RecordType::AAAA, deadline).await,
        other => other,
    }
}

async fn ask(resolver: TokioResolver, name: Name, kind: RecordType, deadline: Instant) -> Records {
    let query = format!("{name} {kind}");
    match timeout_at(deadline, resolver.lookup(name, kind)).await {
        Ok(Ok(lookup)) => {
            let answers = lookup.answers();
            let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or_default();
            let wanted = answers.iter().filter(|record| record.record_type() == kind);
            let records: Vec<_> = wanted.map(|record| record.data.clone()).collect();
            let ttl = Duration::from_secs(ttl.into());
            if records.is_empty() {
                Records::Missing(Some(ttl))
            } else {
                Records::Found(records, ttl)
            }
        }
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
            Records::Missing(none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())))
        }
        Ok(Err(error)) => Records::Failed(format!("{query}: {error}")),
        Err(_) => Records::Failed(format!("{query}: no answer in time")),
    }
}
