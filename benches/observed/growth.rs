//! The memory of 10,000,000 requests.

use std::{
    fs,
    task::{Context, Poll, Waker},
};

use http::{HeaderValue, Request, header};
use tower_service::Service;
use tower_sticky::{StickyLayer, affinity::Cookie};
use tower_sticky_benches::{Sticky, backends, enter_runtime, keys};

use crate::Failure;

const REQUESTS: u32 = 10_000_000;

pub fn run() -> Result<(), Failure> {
    enter_runtime();
    let layer = StickyLayer::new(backends(8), Cookie::sealed("SERVER_ID", keys()));
    let mut client = Client::new(layer.into_service())?;
    for _ in 0..REQUESTS / 100 {
        client.send()?;
    }
    let before = resident()?;
    for _ in 0..REQUESTS {
        client.send()?;
    }
    println!("growth: {before} KiB before and {} KiB after {REQUESTS} requests", resident()?);
    Ok(())
}

/// The resident memory of this process in KiB.
fn resident() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
    Ok(number.parse()?)
}

/// A client with a session.
pub struct Client {
    service: Sticky,
    cookie: Option<HeaderValue>,
}

impl Client {
    pub fn new(service: Sticky) -> Result<Self, Failure> {
        let mut client = Self { service, cookie: None };
        client.send()?;
        Ok(client)
    }

    /// One request of the session.
    pub fn send(&mut self) -> Result<(), Failure> {
        let mut request = Request::new(());
        if let Some(cookie) = &self.cookie {
            request.headers_mut().insert(header::COOKIE, cookie.clone());
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut future = std::pin::pin!(self.service.call(request));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            return Err("a request was not answered".into());
        };
        if let Some(token) = response.headers().get(header::SET_COOKIE) {
            let pair = token.to_str()?.split(';').next().unwrap_or_default();
            self.cookie = Some(HeaderValue::from_str(pair)?);
        }
        Ok(())
    }
}
