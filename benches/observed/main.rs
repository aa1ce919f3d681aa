//! What it costs to observe: the access log under load, scrapes of many backends, the dashboard, and growth over many
//! requests.
//!
//! ```text
//! cargo run --release -p tower-sticky-benches --bin observed              # all four
//! cargo run --release -p tower-sticky-benches --bin observed -- log       # or scrape, dashboard, growth
//! ```
//!
//! - `log`: 50,000 lines a second for ten seconds to a file in the current directory. None may be dropped.
//! - `scrape`: with 2,000 backends, how long the metrics take to render (at most 100 ms), and the 99th percentile of the
//!   time of requests with and without scrapes four times a second (within 10 %).
//! - `dashboard`: a gateway with 2,000 backends: how large its pages are (at most 1 MB) and how long they take (at most
//!   300 ms; the metrics 100 ms), and the 99th percentile of the time of requests without and with an open dashboard
//!   and a scrape a second (within 10 %). It takes a minute.
//! - `growth`: the resident memory before and after 10,000,000 requests.

#![allow(missing_docs)]

mod dashboard;
mod growth;
#[path = "../scale/http.rs"]
mod http;
mod log;
#[allow(dead_code, reason = "other programs measure other proxies, too")]
#[path = "../proxy_process.rs"]
mod proxy_process;
#[path = "../release.rs"]
mod release;
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
    if wanted("dashboard") {
        dashboard::run()?;
    }
    if wanted("growth") {
        growth::run()?;
    }
    Ok(())
}
