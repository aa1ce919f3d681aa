//! One look-up: the questions, and what their answers mean.

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

/// So many targets are looked up at once: a connection to a name server takes 32 questions.
const AT_ONCE: usize = 8;

pub(super) struct Resolver {
    pub(super) resolver: TokioResolver,
    /// Whether it was made for this feed alone.
    pub(super) own: bool,
}

pub(super) struct Asker {
    pub(super) resolver: Resolver,
    pub(super) name: Name,
    /// The port of the addresses; `None` when the service's records tell it.
    pub(super) port: Option<u16>,
    pub(super) timeout: Duration,
}

/// A backend that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) address: SocketAddr,
    /// `None` when the records have no weights.
    pub(super) weight: Option<u32>,
}

/// What a look-up found out.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) found: BTreeMap<BackendId, Found>,
    /// Known backends of which nothing could be found out.
    pub(super) unsure: HashSet<BackendId>,
    /// Names that cannot be ids, and why.
    pub(super) bad: Vec<(String, String)>,
    /// The smallest TTL.
    pub(super) ttl: Option<Duration>,
    /// What could not be found out, and why.
    pub(super) failure: Option<String>,
}

/// What one question brought.
enum Records {
    Some(Vec<RData>, Duration),
    /// There are none, says the domain name system, maybe for so long.
    None(Option<Duration>),
    Failed(String),
}

impl Asker {
    /// Asks for everything. `known` are the backends of the feed as it knows them.
    pub(super) async fn look_up(&self, known: &HashMap<BackendId, Found>) -> Answer {
        if self.resolver.own {
            // Its TTLs have passed, but for rounding; and after a failure there is nothing to keep.
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
        known: &HashMap<BackendId, Found>,
        deadline: Instant,
    ) -> Answer {
        let resolver = &self.resolver.resolver;
        let mut other = JoinSet::new();
        other.spawn(ask(resolver.clone(), self.name.clone(), RecordType::AAAA, deadline));
        let v4 = ask(resolver.clone(), self.name.clone(), RecordType::A, deadline).await;
        let v6 = match other.join_next().await {
            Some(Ok(records)) => records,
            _ => Records::Failed("the look-up was cut short".to_owned()),
        };
        let mut answer = Answer::default();
        for (records, is_v4) in [(v4, true), (v6, false)] {
            match records {
                Records::Some(records, ttl) => {
                    answer.lives(ttl);
                    for ip in records.iter().filter_map(RData::ip_addr) {
                        let address = SocketAddr::new(ip, port);
                        answer.find(address.to_string(), address, None);
                    }
                }
                // A family without records does not shorten the life of the other one.
                Records::None(_) => {}
                Records::Failed(why) => {
                    let family = known.iter().filter(|(_, at)| at.address.is_ipv4() == is_v4);
                    answer.unsure.extend(family.map(|(id, _)| id.clone()));
                    answer.failure = Some(why);
                }
            }
        }
        answer
    }

    async fn srv(&self, known: &HashMap<BackendId, Found>, deadline: Instant) -> Answer {
        let mut answer = Answer::default();
        let resolver = &self.resolver.resolver;
        let asked = ask(resolver.clone(), self.name.clone(), RecordType::SRV, deadline).await;
        let (records, ttl) = match asked {
            Records::Some(records, ttl) => (records, ttl),
            Records::None(ttl) => {
                answer.ttl = ttl;
                return answer;
            }
            Records::Failed(why) => {
                answer.unsure.extend(known.keys().cloned());
                answer.failure = Some(why);
                return answer;
            }
        };
        answer.lives(ttl);
        let mut targets = answer.targets(&records).into_iter();
        let mut asking = JoinSet::new();
        loop {
            while asking.len() < AT_ONCE
                && let Some((id, target)) = targets.next()
            {
                let resolver = resolver.clone();
                asking.spawn(async move {
                    (
                        id,
                        target.port,
                        target.weight,
                        addresses(resolver, target.name, deadline).await,
                    )
                });
            }
            let Some(joined) = asking.join_next().await else {
                break;
            };
            let Ok((id, port, weight, records)) = joined else {
                // Whom it was about is not known any more, so everybody stays.
                answer.unsure.extend(known.keys().cloned());
                answer.failure = Some("the look-up of a target was cut short".to_owned());
                continue;
            };
            match records {
                Records::Some(records, ttl) => {
                    answer.lives(ttl);
                    let mut ips: Vec<IpAddr> = records.iter().filter_map(RData::ip_addr).collect();
                    ips.sort_unstable();
                    let current = known.get(&id).map(|found| found.address.ip());
                    let ip = current.filter(|ip| ips.contains(ip)).or(ips.first().copied());
                    if let Some(ip) = ip {
                        let address = SocketAddr::new(ip, port);
                        answer.found.insert(id, Found { address, weight: Some(weight) });
                    }
                }
                // The service names it, so it is not gone.
                Records::None(_) => {
                    answer.failure = Some(format!("the target {id} has no address"));
                    answer.unsure.insert(id);
                }
                Records::Failed(why) => {
                    answer.failure = Some(why);
                    answer.unsure.insert(id);
                }
            }
        }
        answer
    }
}

struct Wanted {
    name: Name,
    port: u16,
    weight: u32,
}

impl Answer {
    fn lives(&mut self, ttl: Duration) {
        self.ttl = Some(self.ttl.map_or(ttl, |least| least.min(ttl)));
    }

    fn find(&mut self, id: String, address: SocketAddr, weight: Option<u32>) {
        match BackendId::new(&id) {
            Ok(id) => {
                self.found.insert(id, Found { address, weight });
            }
            Err(why) => self.bad.push((id, why.to_string())),
        }
    }

    /// The targets of the lowest priority, by id.
    fn targets(&mut self, records: &[RData]) -> BTreeMap<BackendId, Wanted> {
        let services = || {
            records.iter().filter_map(|record| match record {
                // The root as target: decidedly no service (RFC 2782).
                RData::SRV(srv) if !srv.target.is_root() => Some(srv),
                _ => None,
            })
        };
        let first = services().map(|srv| srv.priority).min();
        let mut targets = BTreeMap::<BackendId, Wanted>::new();
        for srv in services().filter(|srv| Some(srv.priority) == first) {
            let name = srv.target.to_lowercase().to_ascii();
            let id = format!("{}:{}", name.trim_end_matches('.'), srv.port);
            match BackendId::new(&id) {
                Ok(id) => {
                    let weight = u32::from(srv.weight);
                    let wanted = Wanted { name: srv.target.clone(), port: srv.port, weight: 0 };
                    // Listed twice, it gets the share of both.
                    targets.entry(id).or_insert(wanted).weight += weight;
                }
                Err(why) => self.bad.push((id, why.to_string())),
            }
        }
        for target in targets.values_mut() {
            target.weight = target.weight.max(1);
        }
        targets
    }
}

/// A records, or AAAA records when there are none.
async fn addresses(resolver: TokioResolver, name: Name, deadline: Instant) -> Records {
    match ask(resolver.clone(), name.clone(), RecordType::A, deadline).await {
        Records::None(_) => ask(resolver, name, RecordType::AAAA, deadline).await,
        other => other,
    }
}

async fn ask(resolver: TokioResolver, name: Name, kind: RecordType, deadline: Instant) -> Records {
    let question = format!("{name} {kind}");
    match timeout_at(deadline, resolver.lookup(name, kind)).await {
        Ok(Ok(lookup)) => {
            let answers = lookup.answers();
            let ttl = answers.iter().map(|record| record.ttl).min().unwrap_or_default();
            let wanted = answers.iter().filter(|record| record.record_type() == kind);
            let records: Vec<_> = wanted.map(|record| record.data.clone()).collect();
            let ttl = Duration::from_secs(ttl.into());
            if records.is_empty() { Records::None(Some(ttl)) } else { Records::Some(records, ttl) }
        }
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
            Records::None(none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())))
        }
        Ok(Err(error)) => Records::Failed(format!("{question}: {error}")),
        Err(_) => Records::Failed(format!("{question}: no answer in time")),
    }
}
