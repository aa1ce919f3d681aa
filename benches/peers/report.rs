//! The tables.

use std::{fs, time::Duration};

use crate::{Cost, load::Loaded, options::Options, peer::Peer, workload::Workload};

/// What a run was given and what it showed; `None` where it has failed.
type Run = (Workload, Peer, Option<(Loaded, Cost)>);

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    peers: Vec<Peer>,
    workloads: Vec<Workload>,
    /// In the order of the rounds.
    runs: Vec<Run>,
}

/// The processor, the cores, the memory and the kernel.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let model = field(&cpu, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let memory = field(&memory, "MemTotal").unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{model}, {cores} cores, {memory}, Linux {}", kernel.trim())
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        let (peers, workloads) = (options.peers.clone(), options.workloads.clone());
        Self { peers, workloads, runs: Vec::new() }
    }

    pub(crate) fn add(&mut self, workload: Workload, peer: Peer, run: Option<(Loaded, Cost)>) {
        self.runs.push((workload, peer, run));
    }

    fn runs(&self, workload: Workload, peer: Peer) -> Vec<Option<(Loaded, Cost)>> {
        let own = self.runs.iter().filter(|(of, by, _)| (*of, *by) == (workload, peer));
        own.map(|(.., run)| *run).collect()
    }

    /// What a request has cost in each round, in microseconds; for idle connections KiB of each.
    fn costs(&self, workload: Workload, peer: Peer) -> Vec<Option<f64>> {
        let each = |(loaded, cost): (Loaded, Cost)| match workload.has_requests() {
            true => cost.cpu.as_secs_f64() * 1e6 / loaded.requests as f64,
            false => cost.resident / loaded.requests as f64,
        };
        self.runs(workload, peer).into_iter().map(|run| run.map(each)).collect()
    }

    /// The cost in each round over that of another proxy in the same round.
    fn ratios(&self, workload: Workload, peer: Peer, to: Peer) -> Vec<f64> {
        let pairs = self.costs(workload, peer).into_iter().zip(self.costs(workload, to));
        pairs.filter_map(|(cost, other)| Some(cost? / other?)).collect()
    }

    /// All figures of a workload.
    pub(crate) fn print_workload(&self, workload: Workload) {
        println!("\n## {}\n", workload.title());
        let unit = if workload.has_requests() { "CPU µs/request" } else { "KiB/connection" };
        println!("| | {unit} | over haproxy | requests/s | p50 ms | p99 ms | resident MiB |");
        println!("|---|---|---|---|---|---|---|");
        for &peer in &self.peers {
            let runs: Vec<_> = self.runs(workload, peer).into_iter().flatten().collect();
            let costs = self.costs(workload, peer).into_iter().flatten().collect();
            let Some(cost) = median(costs) else { continue };
            let of = |what: &dyn Fn(&(Loaded, Cost)) -> f64| {
                median(runs.iter().map(what).collect()).unwrap_or_default()
            };
            let millis = |time: Duration| time.as_secs_f64() * 1e3;
            println!(
                "| {peer} | {cost:.1} | {} | {:.0} | {:.2} | {:.2} | {:.1} |",
                spread(self.ratios(workload, peer, Peer::HaProxy)),
                of(&|(loaded, _)| loaded.requests as f64 / loaded.time.as_secs_f64()),
                of(&|(loaded, _)| millis(loaded.p50)),
                of(&|(loaded, _)| millis(loaded.p99)),
                of(&|(_, cost)| cost.resident / 1024.0),
            );
        }
    }

    /// The gateway over each of the others, and the means.
    pub(crate) fn print(&self) {
        let others: Vec<_> = self.peers.iter().filter(|peer| **peer != Peer::Gateway).collect();
        println!("\n## The gateway over the others: median (least to most) of the rounds\n");
        let names: String = others.iter().map(|peer| format!(" {peer} |")).collect();
        println!("| |{names}\n|---|{}", "---|".repeat(others.len()));
        for &workload in &self.workloads {
            let row: String = others
                .iter()
                .map(|&&to| format!(" {} |", spread(self.ratios(workload, Peer::Gateway, to))))
                .collect();
            println!("| {} |{row}", workload.title());
        }
        let means: String = others.iter().map(|&&to| format!(" {} |", self.mean(to))).collect();
        println!("| geometric mean of CPU |{means}");
    }

    /// The geometric mean over the workloads with requests.
    fn mean(&self, to: Peer) -> String {
        let with_requests = self.workloads.iter().filter(|workload| workload.has_requests());
        let ratios = with_requests
            .filter_map(|&workload| median(self.ratios(workload, Peer::Gateway, to)))
            .collect::<Vec<_>>();
        if ratios.is_empty() {
            return String::new();
        }
        let logarithms = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>();
        format!("{:.2}", (logarithms / ratios.len() as f64).exp())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// The median, and the least and the most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    match (values.first(), values.get(values.len() / 2), values.last()) {
        (Some(least), Some(median), Some(most)) if values.len() > 1 => {
            format!("{median:.2} ({least:.2}–{most:.2})")
        }
        (_, Some(only), _) => format!("{only:.2}"),
        _ => String::new(),
    }
}
