//! Runs one row of the matrix at a time, and checks that it leaves nothing behind.

use std::{
    fs,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle},
    time::Instant,
};
use tower_sticky_heavy_tests::FOREVER;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a row on a runtime of its own, while no other row runs: descriptors and children belong to the
/// whole process. Everything that the row has made must be gone soon after its end.
pub fn alone(row: impl Future<Output = ()>) {
    run(Builder::new_multi_thread().worker_threads(2), row);
}

/// The same without other threads, in paused time.
pub fn alone_in_paused_time(row: impl Future<Output = ()>) {
    run(Builder::new_current_thread().start_paused(true), row);
}

fn run(builder: &mut Builder, row: impl Future<Output = ()>) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = builder.enable_all().build().unwrap();
    runtime.block_on(async {
        let before = Left::now();
        row.await;
        // Real time, because the runtime's clock may be paused.
        let mut patience = FOREVER;
        let step = Duration::from_millis(5);
        while Left::now() != before {
            assert!(!patience.is_zero(), "something is left: {:?} of {before:?}", Left::now());
            patience = patience.saturating_sub(step);
            tokio::task::spawn_blocking(move || std::thread::sleep(step)).await.unwrap();
        }
    });
}

/// What a row may leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    tasks: usize,
    descriptors: usize,
    children: usize,
}

impl Left {
    fn now() -> Self {
        Self {
            tasks: Handle::current().metrics().num_alive_tasks(),
            descriptors: entries("/proc/self/fd").count(),
            children: entries("/proc").filter(|name| is_child(name)).count(),
        }
    }
}

/// `None` without `/proc`: then only the other checks run.
fn entries(path: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn is_child(process: &str) -> bool {
    let stat = match process.parse::<u32>() {
        Ok(id) => fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default(),
        Err(_) => return false,
    };
    // The name, in brackets, may contain anything; then come the state and the parent's id.
    let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
    parent == Some(&std::process::id().to_string())
}

/// The median of some durations, for the printed figures.
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// How long a future takes.
pub async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    let result = work.await;
    (result, start.elapsed())
}
