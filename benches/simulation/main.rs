//! Many gateways in one process, under simulated time: how often a session moves that could have stayed.
//!
//! ```text
//! cargo run --release -p tower-sticky-benches --bin simulation
//! cargo run --release -p tower-sticky-benches --bin simulation -- --gateways 100 --backends 1000 --sessions 100000
//! ```
//!
//! Gateways learn of a change of the pool up to 30 s after each other, and their clocks differ by up to 10 minutes.
//! Every backend is replaced once, backends crash and return, gateways lose what is in their memory, and the key is
//! rotated. All of it follows from the seed, but for the ids of sessions. The program fails when a session with a token,
//! or a key, has moved without need.
//!
//! What is simplified: gateways that learn of changes at the same time share one pool, and so what they find out about
//! their backends. Requests follow one another.

#![allow(missing_docs)]

mod keys;
mod memory;
mod plan;
mod progress;
mod tokens;
mod view;
mod world;

use std::error::Error;

use plan::Options;
use progress::Progress;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

type Failure = Box<dyn Error + Send + Sync>;

fn options() -> Result<Options, Failure> {
    let mut options = Options { gateways: 1_000, backends: 10_000, sessions: 1_000_000, seed: 1 };
    let mut arguments = lexopt::Parser::from_env();
    while let Some(argument) = arguments.next()? {
        let lexopt::Arg::Long(name) = argument else { return Err(argument.unexpected().into()) };
        let name = name.to_owned();
        let value: u64 = arguments.value()?.parse_with(|text| text.parse::<u64>())?;
        match &*name {
            "gateways" => options.gateways = value.max(1),
            "backends" => options.backends = value.max(2),
            "sessions" => options.sessions = value.max(1),
            "seed" => options.seed = value,
            other => return Err(format!("unknown option --{other}").into()),
        }
    }
    Ok(options)
}

trait ParseWith {
    fn parse_with<T>(
        self,
        parse: impl FnOnce(&str) -> Result<T, std::num::ParseIntError>,
    ) -> Result<T, Failure>;
}

impl ParseWith for std::ffi::OsString {
    fn parse_with<T>(
        self,
        parse: impl FnOnce(&str) -> Result<T, std::num::ParseIntError>,
    ) -> Result<T, Failure> {
        Ok(parse(self.to_str().ok_or("not a number")?)?)
    }
}

fn main() -> Result<(), Failure> {
    let options = options()?;
    println!("{options}");
    let progress = Progress::begin();
    let tokens = run(tokens::simulate(options, progress))?;
    println!("\n{tokens}");
    let keys = run(keys::simulate(options, progress))?;
    println!("\n{keys}");
    progress.tell("memory of a session");
    let memory = run(memory::measure(options))?;
    println!("\n{memory}\n\n{}", progress.cost());
    if tokens.needless() > 0 || keys.needless > 0 {
        return Err("sessions have moved without need".into());
    }
    Ok(())
}

/// Runs a simulation, whose time advances only when it says so.
fn run<T>(simulation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build()?.block_on(simulation)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Options = Options { gateways: 60, backends: 50, sessions: 1_000, seed: 7 };

    #[test]
    fn no_session_with_a_token_moves_without_need() {
        let found = run(tokens::simulate(SMALL, Progress::silent())).unwrap();
        assert_eq!(found.needless(), 0, "{found}");
        assert!(found.necessary > SMALL.sessions / 2, "every backend is replaced: {found}");
    }

    #[test]
    fn keys_move_no_more_than_they_must() {
        let found = run(keys::simulate(SMALL, Progress::silent())).unwrap();
        assert_eq!(found.needless, 0, "{found}");
        assert!(found.moved > 0, "{found}");
    }
}
