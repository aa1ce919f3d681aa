//! The access log at 50,000 lines a second.

use std::{
    fs,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use http::Request;
use http_body::Body;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;
use tower_sticky::{
    StickyLayer,
    affinity::Cookie,
    metrics::access_log::{AccessLog, AccessLogLayer, Format, LogFile},
};
use tower_sticky_benches::{backends, enter_runtime, keys};

use crate::Failure;

const PER_SECOND: u32 = 50_000;
const SECONDS: u32 = 10;
const FILE: &str = "observed-access.log";

pub fn run() -> Result<(), Failure> {
    enter_runtime();
    let file = LogFile::open(FILE)?;
    let layer = StickyLayer::new(backends(8), Cookie::sealed("SERVER_ID", keys()));
    let sticky = layer.outcome_extensions(true).into_service();
    let log = AccessLogLayer::new(AccessLog::new(Format::Json, file.clone()));
    let mut service = log.layer(sticky);
    let (began, mut busy) = (Instant::now(), Duration::ZERO);
    // A hundredth of a second's requests at a time.
    let batch = PER_SECOND / 100;
    for number in 0..SECONDS * 100 {
        let at = Instant::now();
        for _ in 0..batch {
            one(&mut service)?;
        }
        busy += at.elapsed();
        let due = began + Duration::from_millis(10) * (number + 1);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    file.flush(Duration::from_secs(60));
    let (written, dropped) = (file.written(), file.dropped());
    let bytes = fs::metadata(FILE)?.len();
    fs::remove_file(FILE)?;
    println!(
        "log: {written} lines written, {dropped} dropped, {} bytes a line, {:.0} lines a second, {:.0} ns a request",
        bytes / written.max(1),
        f64::from(PER_SECOND * SECONDS) / began.elapsed().as_secs_f64(),
        busy.as_nanos() as f64 / f64::from(PER_SECOND * SECONDS),
    );
    Ok(())
}

/// One request, whose service answers at once.
fn one<S, B>(service: &mut S) -> Result<(), Failure>
where
    S: Service<Request<()>, Response = http::Response<B>>,
    B: Body,
{
    let request = Request::get("/cart/items").header("host", "shop.example").body(())?;
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = std::pin::pin!(service.call(request));
    match future.as_mut().poll(&mut cx) {
        Poll::Ready(Ok(response)) => drop(response),
        Poll::Ready(Err(_)) | Poll::Pending => return Err("a request was not answered".into()),
    }
    Ok(())
}
