//! What it costs to observe: the access log under load, scrapes of many backends, and growth over many requests.
//!
//! ```text
//! cargo run --release -p tower-sticky-benches --bin observed              # all three
//! cargo run --release -p tower-sticky-benches --bin observed -- log       # or scrape, or growth
//! ```
//!
//! - `log`: 50,000 lines a second for ten seconds to a file in the current directory. None may be dropped.
//! - `scrape`: with 2,000 backends, how long the metrics take to render (at most 100 ms), and the 99th percentile of the
//!   time of requests with and without scrapes four times a second (within 10 %).
//! - `growth`: the resident memory before and after 10,000,000 requests.

#![allow(missing_docs)]

mod growth;
mod log;
mod scrape;

use std::{env, error::Error};

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let only = env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("log") {
        log::run()?;
    }
    if wanted("scrape") {
        scrape::run()?;
    }
    if wanted("growth") {
        growth::run()?;
    }
    Ok(())
}
