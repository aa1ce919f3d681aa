//! The load generators wrk and h2load.

use std::{env, fs, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::{Failure, LOAD_CORE};

/// What a load generator has seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loaded {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) time: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    /// The memory of the proxy in KiB, where it had to be read during the load.
    pub(crate) resident: Option<f64>,
}

impl Loaded {
    fn checked(self) -> Result<Self, Failure> {
        match self.failed {
            0 if self.requests > 0 => Ok(self),
            failed => Err(format!("{failed} of {} requests failed", self.requests).into()),
        }
    }
}

/// 16 connections from one thread. With `upload`, requests have a body of so many bytes.
pub(crate) async fn wrk(
    url: &str,
    cookie: &str,
    headers: &[&str],
    upload: Option<usize>,
    time: Duration,
) -> Result<Loaded, Failure> {
    let mut command = on_core("wrk");
    // It takes whole seconds.
    command.args(["-t1", "-c16", "--timeout", "5s", "-d"]);
    command.arg(format!("{}s", time.as_secs().max(1)));
    command.args(["-s", concat!(env!("CARGO_MANIFEST_DIR"), "/peers/load.lua")]);
    command.args(["-H", &format!("Cookie: {cookie}")]);
    command.args(headers.iter().flat_map(|header| ["-H", header]));
    command.arg(url).arg("--").args(upload.map(|bytes| bytes.to_string()));
    let output = command.output().await?;
    let text = String::from_utf8(output.stdout)?;
    let result =
        text.lines().find_map(|line| line.strip_prefix("RESULT ")).ok_or("wrk has failed")?;
    let numbers = result.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    let [requests, time, p50, p99, failed] = numbers[..] else {
        return Err("wrk has said something else".into());
    };
    let micros = Duration::from_micros;
    let loaded = Loaded {
        requests,
        failed,
        resident: None,
        time: micros(time),
        p50: micros(p50),
        p99: micros(p99),
    };
    loaded.checked()
}

/// 8 connections with 10 streams each, from one thread.
pub(crate) async fn h2load(url: &str, cookie: &str, time: Duration) -> Result<Loaded, Failure> {
    let log = env::temp_dir().join("peers-h2load.log");
    let mut command = on_core("h2load");
    command.args(["-t1", "-c8", "-m10", "-D"]).arg(time.as_secs().max(1).to_string());
    command.arg("--log-file").arg(&log);
    command.args(["-H", &format!("Cookie: {cookie}"), url]);
    let output = command.output().await?;
    let text = String::from_utf8(output.stdout)?;
    let number_before = |word: &str| {
        let line = text.lines().find(|line| line.starts_with("requests:"))?;
        let part = line.split(',').find(|part| part.ends_with(word))?;
        part.split_whitespace().rev().nth(1)?.parse::<u64>().ok()
    };
    let (succeeded, failed) = (number_before("succeeded"), number_before("failed"));
    let (Some(requests), Some(failed)) = (succeeded, failed) else {
        return Err("h2load has said something else".into());
    };
    // Each line has the begin, the status, and the time that it took.
    let lines = fs::read_to_string(&log)?;
    let _ = fs::remove_file(&log);
    let times = lines.lines().filter_map(|line| line.split('\t').nth(2)?.parse().ok());
    let (p50, p99) = percentiles(times.map(Duration::from_micros).collect());
    let time = Duration::from_secs(time.as_secs().max(1));
    Loaded { requests, failed, resident: None, time, p50, p99 }.checked()
}

/// The 50th and the 99th.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let at = |hundredths: usize| times.get(times.len() * hundredths / 100).copied();
    (at(50).unwrap_or_default(), at(99).unwrap_or_default())
}

fn on_core(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", LOAD_CORE, program]).stdin(Stdio::null()).stderr(Stdio::null());
    command.kill_on_drop(true);
    command
}
