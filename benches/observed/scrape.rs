//! Scrapes of 2,000 backends while requests are served.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::time::Instant;
use tower_sticky::{StickyLayer, affinity::Cookie, metrics};
use tower_sticky_benches::{backends, enter_runtime, keys};

use crate::{Failure, growth::Client};

const BACKENDS: usize = 2_000;
const LASTS: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(250);

pub fn run() -> Result<(), Failure> {
    enter_runtime();
    let pool = backends(BACKENDS);
    let layer = StickyLayer::new(pool.clone(), Cookie::sealed("SERVER_ID", keys()));
    let mut client = Client::new(layer.into_service())?;
    let quiet = percentile(&mut client)?;
    let done = Arc::new(AtomicBool::new(false));
    let scraper = thread::spawn({
        let (done, pool) = (done.clone(), pool.clone());
        move || {
            let (mut longest, mut bytes) = (Duration::ZERO, 0);
            while !done.load(Relaxed) {
                let began = Instant::now();
                bytes = metrics::render(&pool).len();
                longest = longest.max(began.elapsed());
                thread::sleep(INTERVAL);
            }
            (longest, bytes)
        }
    });
    let scraped = percentile(&mut client)?;
    done.store(true, Relaxed);
    let (longest, bytes) = scraper.join().map_err(|_| "the scraper has failed")?;
    println!(
        "scrape: {BACKENDS} backends, {bytes} bytes, at most {longest:?}; 99 % of the requests within {quiet:?} \
         without scrapes, {scraped:?} with them"
    );
    Ok(())
}

/// The 99th percentile of the times of a hundred requests each.
fn percentile(client: &mut Client) -> Result<Duration, Failure> {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < LASTS {
        let at = Instant::now();
        for _ in 0..100 {
            client.send()?;
        }
        times.push(at.elapsed() / 100);
    }
    times.sort_unstable();
    Ok(times[times.len() * 99 / 100])
}
