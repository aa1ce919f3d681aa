//! Lines on the standard error, so that it can be seen that the simulation goes on.

#![expect(clippy::disallowed_types, reason = "the time of the simulation is paused")]

use std::{fmt, fs, time::Instant};

/// When the simulation has begun, if its progress is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    begun: Instant,
    is_silent: bool,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), is_silent: false }
    }

    #[cfg(test)]
    pub(crate) fn silent() -> Self {
        Self { is_silent: true, ..Self::begin() }
    }

    /// How long it has taken so far, and how much memory.
    pub(crate) fn cost(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        let memory = mebibytes("VmHWM:").map(|most| format!(", at most {most} MiB of memory"));
        format!("{seconds:.0} s{}", memory.unwrap_or_default())
    }

    /// Tells what is done now.
    pub(crate) fn tell(&self, what: impl fmt::Display) {
        if !self.is_silent {
            let (seconds, memory) =
                (self.begun.elapsed().as_secs_f64(), mebibytes("VmRSS:").unwrap_or_default());
            eprintln!("[{seconds:4.0} s, {memory:5} MiB] {what}");
        }
    }
}

/// A line of the status of this process, in MiB.
fn mebibytes(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}
