//! One look-up: the DNS queries.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use hickory_resolver::{
    TokioResolver,
    net::{DnsError, NetError},
    proto::rr::{Name, RData, RecordType},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::answer::{Answer, Endpoint, Records};
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
        Ok(Ok(lookup)) => Records::of(lookup.answers(), kind),
        Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
            Records::Missing(none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())))
        }
        Ok(Err(error)) => Records::Failed(format!("{query}: {error}")),
        Err(_) => Records::Failed(format!("{query}: no answer in time")),
    }
}
