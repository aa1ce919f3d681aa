//! A reverse proxy with session affinity, built from the crate's public API.
//!
//! ```text
//! cargo run --release --example gateway
//! cargo run --release --example gateway -- --demo-store redis://127.0.0.1:6379/
//! cargo run --release --example gateway -- --backend a=http://127.0.0.1:9001 --backend b=http://127.0.0.1:9002
//! cargo run --release --example gateway -- --config examples/gateway/gateway.toml
//! ```
//!
//! `--help` documents all options; `gateway.toml` beside this file is a commented configuration.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)]

mod access_log;
mod admin;
mod cli;
mod config;
mod demo;
mod discovered;
#[cfg(feature = "dns")]
mod discovery;
mod files;
mod fleet;
mod fleet_change;
mod fleet_state;
mod forward;
mod front;
mod history;
mod layer;
mod reload;
mod restart;
mod run;
mod running;
mod service_manager;
mod sockets;
mod stack;
mod state;
mod strategy;
mod swap;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use mimalloc::MiMalloc;
use tracing_subscriber::EnvFilter;

use crate::{
    cli::{Flags, HELP},
    config::Error,
    run::Failure,
};

/// The system's allocator keeps the buffers that idle connections have freed, because smaller allocations lie
/// between them. This one keeps sizes apart, and returns free pages to the system.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The exit code of a bad configuration.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let flags = match Flags::parse(lexopt::Parser::from_env()) {
        Ok(flags) => flags,
        Err(error) => return refuse(&error),
    };
    if flags.help {
        say(HELP.trim_end());
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();

    let (check, explain) = (flags.check, flags.explain.clone());
    match (run::prepare(flags), explain) {
        (Err(error), _) => refuse(&error),
        (Ok(gateway), _) if check => {
            for warning in gateway.warnings() {
                note(&format!("gateway: warning: {warning}"));
            }
            say("the configuration is good");
            ExitCode::SUCCESS
        }
        (Ok(gateway), Some(text)) => ended(gateway.explain(&text).map(|answer| say(&answer))),
        (Ok(gateway), None) => ended(gateway.run()),
    }
}

/// The exit code.
fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => refuse(&error),
        Err(Failure::Io(error)) => {
            note(&format!("gateway: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn refuse(error: &Error) -> ExitCode {
    note(&format!("gateway: {error}"));
    ExitCode::from(BAD_CONFIGURATION)
}

/// Prints a line. A closed standard output is no reason to stop serving.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
