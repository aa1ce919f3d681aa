//! What the system knows and allows.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::Failure;

/// The resident memory of a process, in KiB.
pub(crate) fn resident(pid: u32) -> Result<f64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(number.parse()?)
}

/// Allows as many file descriptors as `connections` need, or as this process may have; the proxies inherit it.
pub(crate) fn raise_file_limit(connections: usize) -> Result<(), Failure> {
    // A proxy may need two for each.
    let wanted = Some(2 * connections as u64 + 10_000);
    if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted }).is_err() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(())
}
