//! A run of random faults, and the checks after it.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    check::{Findings, Story},
    clients::Clients,
    fleet::Fleet,
    plan::Step,
};

/// How long after the last fault all backends must be ready.
pub const CALM: Duration = Duration::from_secs(1);

/// Runs the plan to its end.
pub async fn rage(fleet: &Arc<Fleet>, plan: Vec<(Duration, Step)>) {
    let (begun, mut tasks) = (Instant::now(), JoinSet::new());
    for (at, step) in plan {
        sleep_until(begun + at).await;
        match step {
            Step::Backend { backend, what, lasts } => {
                let fleet = fleet.clone();
                tasks.spawn(async move { fleet.happen(backend, what, lasts).await });
            }
            Step::RestartGateway { kills } => fleet.restart_gateway(kills).await,
        }
    }
    tasks.join_all().await;
}

/// Runs the plan while clients send requests, and checks what is left afterwards. Returns the history, and
/// the findings so far.
pub async fn survive(
    fleet: &Arc<Fleet>,
    clients: Clients,
    plan: Vec<(Duration, Step)>,
) -> (Story, Findings) {
    let mut findings = Findings::default();
    let steps = plan.len();
    rage(fleet, plan).await;
    sleep(CALM).await;
    let quiet = Instant::now();
    for backend in fleet.admin.backends().await {
        let now = (&backend["state"], &backend["mode"], &backend["weight"]);
        if now != (&"ready".into(), &"active".into(), &1.into()) {
            findings.add("A second after the faults a backend is not ready.", &backend);
        }
    }
    sleep(CALM / 2).await;
    let lives = clients.end().await;
    for backend in left(fleet).await {
        findings.add("Requests are in flight or waiting after the last response.", &backend);
    }
    let violations = fleet.violations().await;
    if violations > 0 {
        findings.add("The gateway has counted violations.", &violations);
    }
    let story = Story {
        lives,
        spells: fleet.timeline.spells(),
        gaps: fleet.timeline.gaps(),
        drained: fleet.timeline.drained(),
        log: fleet.log.clone(),
        quiet,
    };
    println!(
        "{steps} steps, {} requests of {} clients",
        story.exchanges().count(),
        story.lives.len()
    );
    (story, findings)
}

/// The backends that still have requests in flight after some time.
async fn left(fleet: &Fleet) -> Vec<Value> {
    for _ in 0..100 {
        let mut all = fleet.admin.backends().await;
        all.retain(|backend| backend["in_flight"] != 0 || backend["waiting"] != 0);
        if all.is_empty() {
            return all;
        }
        sleep(Duration::from_millis(10)).await;
    }
    fleet.admin.backends().await
}
