//! Backends and a gateway, and the faults that can be injected.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustix::process::Signal;
use serde_json::json;
use tokio::{
    sync::{Mutex, RwLock},
    task::block_in_place,
    time::{Instant, sleep},
};
use tower_sticky_heavy_tests::backend_process::{Log, Process};

use crate::{
    admin::Admin,
    gateway::Gateway,
    kind::Kind,
    timeline::{Drained, NAMES, Timeline, What},
};

pub struct Fleet {
    processes: Vec<Mutex<Process>>,
    places: Vec<SocketAddr>,
    /// Read-locked by users of its admin interface, write-locked while it restarts.
    gateway: RwLock<Gateway>,
    pub addr: SocketAddr,
    pub admin: Admin,
    pub timeline: Timeline,
    pub log: Log,
    /// The counters of gateways that have ended.
    violations: Mutex<u64>,
}

impl Fleet {
    pub async fn start(kind: &Kind) -> Arc<Self> {
        let log = Log::default();
        let mut processes = Vec::new();
        for name in NAMES {
            processes.push(Process::start(name, &log).await);
        }
        let gateway = Gateway::start(kind, processes.iter());
        Arc::new(Self {
            places: processes.iter().map(|process| process.port.addr).collect(),
            processes: processes.into_iter().map(Mutex::new).collect(),
            addr: gateway.port.addr,
            admin: Admin(gateway.admin.addr),
            gateway: RwLock::new(gateway),
            timeline: Timeline::default(),
            log,
            violations: Mutex::default(),
        })
    }

    /// Injects a fault into a backend; it is over when this returns.
    pub async fn happen(&self, backend: usize, what: What, lasts: Duration) {
        let mut process = self.processes[backend].lock().await;
        let spell = self.timeline.begin(backend, what);
        match what {
            What::Kill => {
                block_in_place(|| process.kill());
                sleep(lasts).await;
                process.restart().await;
            }
            What::Term => {
                process.signal(Signal::TERM);
                process.ended().await;
                sleep(lasts).await;
                process.restart().await;
            }
            What::Pause => {
                process.signal(Signal::STOP);
                sleep(lasts).await;
                process.signal(Signal::CONT);
            }
            What::Drop | What::Fail => {
                let word = if what == What::Drop { "drop" } else { "fail" };
                block_in_place(|| process.tell(word));
                sleep(lasts).await;
                block_in_place(|| process.tell("work"));
            }
            _ => self.operate(backend, what, lasts).await,
        }
        self.timeline.end(spell);
    }

    /// Changes the configuration of a backend, and later changes it back.
    async fn operate(&self, backend: usize, what: What, lasts: Duration) {
        let (id, millis) = (NAMES[backend], lasts.as_millis());
        let change = match what {
            What::Drain => Some(json!({ "mode": "draining" })),
            What::DrainUntil => {
                Some(json!({ "mode": "draining", "deadline": format!("{}ms", millis / 2) }))
            }
            What::Disable => Some(json!({ "mode": "disabled" })),
            What::Weigh => Some(json!({ "weight": millis % 2 * 5 })),
            _ => None,
        };
        let here = self.gateway.read().await;
        let began = Instant::now();
        match change {
            Some(change) => self.admin.patch(id, change).await,
            None => self.admin.remove(id).await,
        }
        drop(here);
        let deadline = Instant::now() + lasts / 2;
        sleep(lasts).await;
        let _here = self.gateway.read().await;
        if what == What::DrainUntil {
            let until = Instant::now();
            self.timeline.was_drained(Drained { backend, began, deadline, until });
        }
        match what {
            What::Remove => self.admin.put(id, self.places[backend]).await,
            What::Weigh => self.admin.patch(id, json!({ "weight": 1 })).await,
            _ => self.admin.patch(id, json!({ "mode": "active" })).await,
        }
    }

    /// What the operator has changed is as the file says again, at the latest when that is over.
    pub async fn restart_gateway(&self, kills: bool) {
        let mut gateway = self.gateway.write().await;
        *self.violations.lock().await += self.admin.violations().await;
        let from = Instant::now();
        gateway.end(kills).await;
        block_in_place(|| gateway.run());
        self.timeline.gateway_was_gone(from);
    }

    /// The id of the gateway's process.
    pub async fn gateway_id(&self) -> u32 {
        self.gateway.read().await.id()
    }

    pub async fn violations(&self) -> u64 {
        *self.violations.lock().await + self.admin.violations().await
    }
}
