//! Programs in Python with gRPC (grpcio).

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use tower_sticky_heavy_tests::in_time;

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

fn python(script: &str, args: &[&str]) -> Command {
    let python = here().join("../../../target/peers-venv/bin/python");
    assert!(
        python.exists(),
        "there is no {}; make it with tests/heavy/peers/venv.sh",
        python.display()
    );
    let mut command = Command::new(python);
    command.arg(here().join(script)).args(args).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Checks the description of an interface in this file by OpenAPI.
pub async fn validate(file: &str) -> Output {
    python("validate.py", &[file]).output().await.unwrap()
}

/// A gRPC server, which is killed at the end.
pub struct GrpcServer {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub port: String,
}

impl GrpcServer {
    /// With the paths of a certificate and its key it listens for TLS.
    pub async fn start(name: &str, identity: Option<&(String, String)>) -> Self {
        let mut args = vec![name];
        if let Some((certificate, key)) = identity {
            args.extend([certificate.as_str(), key]);
        }
        let mut child =
            python("grpc_server.py", &args).stdout(Stdio::piped()).spawn().expect("Python starts");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = in_time("the server listens", lines.next_line()).await.unwrap().unwrap();
        Self { _child: child, lines, port }
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        in_time("the server prints a line", self.lines.next_line()).await.unwrap().unwrap()
    }
}

/// Runs the client, which checks the responses itself.
pub async fn grpc_client(args: &[&str]) -> Output {
    in_time("the client ends", python("grpc_client.py", args).output()).await.unwrap()
}
