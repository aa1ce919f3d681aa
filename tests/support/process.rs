//! The gateway as a process, which is killed with its guard.

#![allow(
    unreachable_pub,
    reason = "a module of the tests of the gateway, and of the library of the heavy tests"
)]

use std::{
    net::SocketAddr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

use crate::example::binary;

/// A timeout that no passing test reaches on any machine.
pub const FOREVER: Duration = Duration::from_secs(60);

/// A running gateway. It is killed when this is dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    pub addr: SocketAddr,
    /// Of its first listener: `http` or `https`.
    #[allow(dead_code, reason = "each target uses a part of this")]
    pub scheme: String,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    pub file: Option<ConfigFile>,
}

impl Gateway {
    /// Starts a gateway on a free port with these flags, and waits until it listens.
    pub async fn start(args: &[&str]) -> Self {
        Self::spawn(args, &[], None).await
    }

    /// Starts a gateway with this configuration file.
    pub async fn configured(config: &str) -> Self {
        Self::configured_with(config, &[]).await
    }

    /// The same, with environment variables.
    pub async fn configured_with(config: &str, env: &[(&str, &str)]) -> Self {
        let file = ConfigFile::new(config);
        let path = file.path().to_str().unwrap().to_owned();
        Self::spawn(&["--config", &path], env, Some(file)).await
    }

    /// Starts a gateway that listens as this file says; its address is that of the first listener.
    #[allow(dead_code, reason = "each target uses a part of this")]
    pub async fn listening(config: &str) -> Self {
        let file = ConfigFile::new(config);
        let path = file.path().to_str().unwrap().to_owned();
        Self::run(command(), &["--config", &path], &[], Some(file)).await
    }

    /// Starts a gateway with this configuration file and these flags.
    #[allow(dead_code, reason = "only for reloads")]
    pub async fn configured_and(config: &str, flags: &[&str]) -> Self {
        let file = ConfigFile::new(config);
        let path = file.path().to_str().unwrap().to_owned();
        Self::spawn(&[&["--config", &path], flags].concat(), &[], Some(file)).await
    }

    /// Starts this program with these flags.
    #[allow(dead_code, reason = "only for restarts")]
    pub async fn of(program: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.kill_on_drop(true).stdin(Stdio::null());
        Self::spawn_from(command, args, &[], None).await
    }

    /// Kills the processes that run this program, which this one has started.
    #[allow(dead_code, reason = "only for restarts")]
    pub fn kill_running(&self, program: &Path) {
        for id in
            processes(|line| line.first().is_some_and(|it| *it == program.as_os_str().as_bytes()))
        {
            let _ =
                std::process::Command::new("kill").args(["-s", "KILL", &id.to_string()]).status();
        }
    }

    /// Writes another configuration into its file.
    #[allow(dead_code, reason = "only for reloads")]
    pub fn rewrite(&self, config: &str) {
        let file = self.file.as_ref().expect("it was started with a file");
        // As editors and Kubernetes do: the file is never half written.
        let new = file.path().with_extension("new");
        std::fs::write(&new, config).unwrap();
        std::fs::rename(&new, file.path()).unwrap();
    }

    /// Starts a gateway with one worker thread.
    pub async fn on_one_worker(config: &str) -> Self {
        let file = ConfigFile::new(config);
        let path = file.path().to_str().unwrap().to_owned();
        Self::spawn(&["--config", &path, "--workers", "1"], &[], Some(file)).await
    }

    /// Starts a gateway with a limit of file descriptors.
    pub async fn with_files(limit: u32, config: &str) -> Self {
        let file = ConfigFile::new(config);
        let path = file.path().to_str().unwrap().to_owned();
        let mut limited = Command::new("sh");
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        limited.args(["-c", &script]).arg(binary("gateway"));
        limited.kill_on_drop(true).stdin(Stdio::null());
        Self::spawn_from(limited, &["--config", &path], &[], Some(file)).await
    }

    async fn spawn(args: &[&str], env: &[(&str, &str)], file: Option<ConfigFile>) -> Self {
        Self::spawn_from(command(), args, env, file).await
    }

    async fn spawn_from(
        command: Command,
        args: &[&str],
        env: &[(&str, &str)],
        file: Option<ConfigFile>,
    ) -> Self {
        let args = [&["--listen", "127.0.0.1:0"], args].concat();
        Self::run(command, &args, env, file).await
    }

    async fn run(
        mut command: Command,
        args: &[&str],
        env: &[(&str, &str)],
        file: Option<ConfigFile>,
    ) -> Self {
        let mut child = command
            .args(args)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let Some(line) = next_line(&mut stdout).await else {
            let mut said = String::new();
            while let Some(line) = stderr.next_line().await.unwrap() {
                said.push_str(&line);
            }
            panic!("the gateway did not start: {said}");
        };
        let addr = line.strip_prefix("listening on ").and_then(|url| url.split_once("://"));
        let (scheme, addr) = addr
            .unwrap_or_else(|| panic!("the first line is expected to contain the address: {line}"));
        let (scheme, addr) = (scheme.to_owned(), addr.parse().unwrap());
        Self { child, addr, scheme, stdout, stderr, file }
    }

    /// The address of the admin interface, from the gateway's stderr.
    pub async fn admin_addr(&mut self) -> SocketAddr {
        let line = self.stderr_line("admin interface on http://").await;
        let (_, addr) = line.rsplit_once("http://").unwrap();
        addr.parse().unwrap()
    }

    /// The next line on stdout.
    pub async fn stdout_line(&mut self) -> String {
        next_line(&mut self.stdout).await.expect("a line on stdout")
    }

    /// The next line on stderr that contains `text`.
    pub async fn stderr_line(&mut self, text: &str) -> String {
        let find = async {
            loop {
                let line = self.stderr.next_line().await.unwrap();
                let line = line.unwrap_or_else(|| panic!("{text:?} is expected on stderr"));
                if line.contains(text) {
                    return line;
                }
            }
        };
        timeout(FOREVER, find).await.expect("the line is printed in time")
    }

    /// All remaining lines on stderr, until the process ends.
    pub async fn rest_of_stderr(&mut self) -> String {
        let read = async {
            let mut said = String::new();
            while let Some(line) = self.stderr.next_line().await.unwrap() {
                said = said + &line + "\n";
            }
            said
        };
        timeout(FOREVER, read).await.expect("the gateway ends in time")
    }

    /// Prints its stderr until it ends, so that the pipe does not fill up.
    #[allow(dead_code, reason = "only for storms, which last")]
    pub async fn show_stderr(mut self) {
        while let Ok(Some(line)) = self.stderr.next_line().await {
            println!("the gateway says: {line}");
        }
    }

    /// How many threads the process has.
    #[allow(dead_code, reason = "only for reloads")]
    pub fn threads(&self) -> usize {
        std::fs::read_dir(self.proc("task")).unwrap().count()
    }

    /// How many file descriptors the process has.
    #[allow(dead_code, reason = "only for reloads")]
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// The resident memory of the process, in KiB.
    #[allow(dead_code, reason = "only for reloads")]
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id().expect("the gateway runs"))
    }

    /// Sends the process a signal, for example `TERM`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the gateway runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.await.unwrap().success(), "the signal is sent");
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = timeout(FOREVER, self.child.wait()).await;
        ended.expect("the gateway ends in time").unwrap()
    }
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<String> {
    let line = timeout(FOREVER, lines.next_line()).await;
    line.expect("the gateway prints a line in time").unwrap()
}

/// The processes whose command line is one of these, in the order of their start.
#[allow(dead_code, reason = "only for restarts")]
pub fn processes(is_one: impl Fn(&[&[u8]]) -> bool) -> Vec<u32> {
    let ids = std::fs::read_dir("/proc").unwrap();
    let ids = ids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut ids: Vec<_> = ids
        .filter(|id| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            is_one(&line.split(|byte| *byte == 0).collect::<Vec<_>>())
        })
        .collect();
    ids.sort_unstable();
    ids
}

/// Runs a gateway that ends by itself.
pub async fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    let output = command().args(args).envs(env.iter().copied()).output();
    let output = timeout(FOREVER, output).await;
    output.expect("the gateway ends in time").unwrap()
}

/// A configuration file that is removed with its guard.
#[derive(Debug)]
pub struct ConfigFile(PathBuf);

impl ConfigFile {
    pub fn new(text: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gateway-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn command() -> Command {
    static GATEWAY: OnceLock<PathBuf> = OnceLock::new();
    let mut command = Command::new(GATEWAY.get_or_init(|| binary("gateway")));
    command.kill_on_drop(true).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}
