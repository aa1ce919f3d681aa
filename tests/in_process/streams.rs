//! Open streams: they keep their sessions alive on the gateway where they run.

use std::{
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    pin::Pin,
    task::Poll,
    time::Duration,
};

use http::{Request, Response, header};
use http_body::Body as _;
use tower::{ServiceExt, util::ServiceFn};
use tower_sticky::{
    Backends, Mode, NoInner, Outcome, Reason, Rebalance, StickyBody, StickyLayer, StickyService,
    UpgradeEnd, UpgradeGuard, Verdict, affinity::Cookie, strategy::RoundRobin,
};

use crate::{
    support::{Clock, keys},
    unending::Unending,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A backend whose responses never end.
type Endless = ServiceFn<fn(Request<()>) -> Ready<Result<Response<Unending>, Infallible>>>;

fn endless() -> Endless {
    tower::service_fn(|_| ready(Ok(Response::new(Unending::default()))))
}

type Stream = StickyBody<Unending>;

struct Fixture {
    backends: Backends<Endless>,
    service: StickyService<Endless, NoInner>,
    clock: Clock,
    token: Option<String>,
}

impl Fixture {
    /// A session on `a`, with an idle timeout of 20 minutes.
    async fn new(options: impl FnOnce(Cookie) -> Cookie) -> Self {
        let backends = Backends::from_iter([("a", endless()), ("b", endless())]);
        let clock = Clock::new();
        let cookie = Cookie::sealed("sid", keys()).idle_timeout(20 * MINUTE);
        let rest = Rebalance::new().idle_for(5 * MINUTE).max_per_second(1000);
        let service = StickyLayer::new(backends.clone(), options(cookie))
            .strategy(RoundRobin::new())
            .clock(clock.clone())
            .outcome_extensions(true)
            .rebalance(rest)
            .unwrap()
            .into_service();
        let mut fixture = Self { backends, service, clock, token: None };
        assert_eq!(fixture.decision().await, (Verdict::Assigned, "a".into(), None));
        fixture
    }

    async fn ask(&mut self) -> (Response<Stream>, bool) {
        let mut request = Request::new(());
        if let Some(token) = &self.token {
            let cookie = format!("sid={token}").parse().unwrap();
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let response = self.service.clone().oneshot(request).await.unwrap();
        let field = response.headers().get(header::SET_COOKIE);
        let token = field.map(|field| {
            let field = field.to_str().unwrap().strip_prefix("sid=").unwrap();
            field.split(';').next().unwrap().to_owned()
        });
        let renewed = token.is_some();
        self.token = token.or(self.token.take());
        (response, renewed)
    }

    /// Sends a request and does not read its response.
    async fn decision(&mut self) -> (Verdict, String, Option<Reason>) {
        let (response, _) = self.ask().await;
        let outcome = Outcome::of(response.extensions()).unwrap();
        (outcome.verdict(), outcome.backend().unwrap().to_string(), outcome.reason())
    }

    /// Opens a stream of the session whose reader waits for more.
    async fn stream(&mut self) -> Pin<Box<Stream>> {
        let mut body = Box::pin(self.ask().await.0.into_body());
        let waits = poll_fn(|cx| Poll::Ready(body.as_mut().poll_frame(cx).is_pending())).await;
        assert!(waits);
        body
    }

    async fn after(&self, duration: Duration) {
        self.clock.advance(duration.as_secs() as i64);
        tokio::time::sleep(duration).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_keeps_its_session_alive_until_its_end() {
    let mut fixture = Fixture::new(|cookie| cookie).await;
    let stream = fixture.stream().await;
    fixture.after(40 * MINUTE).await;
    let (response, renewed) = fixture.ask().await;
    let outcome = Outcome::of(response.extensions()).unwrap().clone();
    assert_eq!((outcome.verdict(), renewed), (Verdict::Pinned, true), "alive, and refreshed");
    let old = fixture.token.clone();
    fixture.after(40 * MINUTE).await;
    drop(stream);
    fixture.after(19 * MINUTE).await;
    assert_eq!(
        fixture.decision().await.0,
        Verdict::Pinned,
        "a page that reloads after its WebSocket"
    );
    fixture.token = old;
    fixture.after(2 * MINUTE).await;
    let answer = fixture.decision().await;
    assert_eq!(answer.2, Some(Reason::ExpiredIdle), "21 minutes after the end of the stream");
}

#[tokio::test(start_paused = true)]
async fn streams_do_not_extend_the_absolute_timeout_and_may_be_ignored() {
    let mut fixture = Fixture::new(|cookie| cookie.absolute_timeout(30 * MINUTE)).await;
    let stream = fixture.stream().await;
    fixture.after(25 * MINUTE).await;
    assert_eq!(fixture.decision().await.0, Verdict::Pinned);
    fixture.after(5 * MINUTE).await;
    assert_eq!(fixture.decision().await.2, Some(Reason::ExpiredAbsolute));
    drop(stream);

    let mut fixture = Fixture::new(|cookie| cookie.streams_keep_alive(false)).await;
    let _stream = fixture.stream().await;
    fixture.after(20 * MINUTE).await;
    assert_eq!(fixture.decision().await.2, Some(Reason::ExpiredIdle));
}

#[tokio::test(start_paused = true)]
async fn a_session_with_an_open_stream_is_not_idle_and_delays_a_drain() {
    let mut fixture = Fixture::new(|cookie| cookie).await;
    let stream = fixture.stream().await;
    // Many more sessions on `a` than on `b`, so that idle ones would move.
    fixture.backends.set_weight("b", 0).unwrap();
    for _ in 0..10 {
        let token = fixture.token.take();
        fixture.decision().await;
        fixture.decision().await;
        fixture.token = token;
    }
    fixture.backends.set_weight("b", 1).unwrap();
    fixture.after(10 * MINUTE).await;
    let answer = fixture.decision().await;
    assert_eq!(answer, (Verdict::Pinned, "a".into(), None), "it does not rest");
    fixture.after(40 * MINUTE).await;
    let status = fixture.backends.get("a").unwrap();
    assert_eq!(status.sessions, Some(1), "of all only this one is left");
    let drain = tokio::spawn(std::future::IntoFuture::into_future(fixture.backends.drain("a")));
    fixture.after(60 * MINUTE).await;
    assert!(!drain.is_finished());
    drop(stream);
    fixture.after(21 * MINUTE).await;
    assert!(drain.is_finished(), "one idle timeout after the end of the stream");
    assert_eq!(fixture.backends.get("a").unwrap().mode, Mode::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_session_that_has_moved_counts_for_its_own_backend_only() {
    let mut fixture = Fixture::new(|cookie| cookie).await;
    let stream = fixture.stream().await;
    fixture.backends.set_mode("a", Mode::Disabled).unwrap();
    assert_eq!(fixture.decision().await.1, "b");
    fixture.backends.set_mode("a", Mode::Active).unwrap();
    fixture.after(21 * MINUTE).await;
    assert_eq!(fixture.decision().await.2, Some(Reason::ExpiredIdle), "it is idle at b");
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn a_silent_upgraded_connection_counts_too() {
    let (sender, mut ends) = tokio::sync::mpsc::unbounded_channel::<UpgradeEnd>();
    let upgrade = tower::service_fn(move |request: Request<()>| {
        let mut response = Response::new(String::new());
        if request.uri().path() == "/socket" {
            let (hold, end) = UpgradeGuard::pair();
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            response.extensions_mut().insert(hold);
            sender.send(end).unwrap();
        }
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let backends = Backends::from_iter([("a", upgrade)]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(20 * MINUTE);
    let layer = StickyLayer::new(backends, cookie).clock(clock.clone()).outcome_extensions(true);
    let service = layer.into_service();
    let mut token = String::new();
    for (path, minutes, expected) in [
        ("/", 0, None),
        ("/socket", 40, None),
        ("/", 0, None),
        ("/", 21, None),
        ("/", 0, Some(Reason::ExpiredIdle)),
    ] {
        let cookie = format!("sid={token}");
        let request = Request::get(path).header(header::COOKIE, cookie).body(()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        let reason = Outcome::of(response.extensions()).unwrap().reason();
        if !token.is_empty() {
            assert_eq!(reason, expected, "{path}");
        }
        if token.is_empty() {
            let field = response.headers()[header::SET_COOKIE].to_str().unwrap();
            token = field["sid=".len()..].split(';').next().unwrap().to_owned();
        }
        drop(response);
        clock.advance(minutes * 60);
        tokio::time::sleep(minutes as u32 * MINUTE).await;
        if minutes == 40 {
            // The tunnel was open for all that time, and ends now.
            drop(ends.recv().await.unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_stream_is_no_sign_of_life() {
    let mut fixture = Fixture::new(|cookie| cookie).await;
    let stream = fixture.stream().await;
    fixture.after(4 * MINUTE).await;
    drop(stream);
    fixture.after(17 * MINUTE).await;
    assert_eq!(fixture.decision().await.2, Some(Reason::ExpiredIdle), "less than a quarter");
}
