//! Every outcome and every reason is produced once, and is in the metrics, the access log and the span by the same
//! word.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use http::Response;
use rustix::io::Errno;
use serde_json::Value;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
use tower_http::trace::TraceLayer;
use tower_sticky::{
    Backends, ClientError, KeyRing, Mode, Preference, Reason, Rebalance, StickyLayer, Verdict,
    affinity::Cookie,
    metrics::{
        access_log::{AccessLog, AccessLogLayer, Format, LogFile},
        render,
    },
    trace::{RecordAnswer, RequestSpan},
};

use crate::support::{
    Answer, Body, Client, Clock, Node, Spans, after, get, keys, layer, nodes, plain, refuse,
    sealed_session, send, with_cookie,
};

/// What a log has written.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The verdicts and reasons that were seen.
struct Seen {
    verdicts: BTreeSet<&'static str>,
    reasons: BTreeSet<&'static str>,
    written: Written,
    log: LogFile,
    spans: Spans,
}

/// The service with an access log and spans.
macro_rules! observed {
    ($seen:expr, $service:expr) => {
        ServiceBuilder::new()
            .layer(AccessLogLayer::new(AccessLog::new(Format::Json, $seen.log.clone())))
            .layer(
                TraceLayer::new_for_http()
                    .make_span_with(RequestSpan::new())
                    .on_response(RecordAnswer::new()),
            )
            .service($service)
    };
}

impl Seen {
    fn new(spans: Spans) -> Self {
        let written = Written::default();
        let log = LogFile::to(written.clone(), 10_000).unwrap();
        Self { verdicts: BTreeSet::new(), reasons: BTreeSet::new(), written, log, spans }
    }

    /// The last answer of a pool has this outcome; the metrics of the pool, the last line of the log and the last
    /// span have it, too.
    fn note<S>(&mut self, backends: &Backends<S>, answer: &Answer) {
        let (verdict, _, reason) = answer.decision();
        self.note_outcome(backends, verdict, reason);
    }

    fn note_outcome<S>(
        &mut self,
        backends: &Backends<S>,
        verdict: Verdict,
        reason: Option<Reason>,
    ) {
        let word = reason.map_or("", Reason::as_str);
        let labels = format!("outcome=\"{verdict}\",reason=\"{word}\"");
        let text = render(backends);
        let is_counted =
            |line: &str| line.starts_with("sticky_requests_total{") && line.contains(&labels);
        assert!(text.lines().any(is_counted), "{labels}\n{text}");

        assert!(self.log.flush(Duration::from_secs(60)), "the line is written");
        let lines = String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap();
        let line: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
        assert_eq!(line["outcome"], verdict.as_str(), "{line}");
        assert_eq!(line.get("reason").and_then(Value::as_str).unwrap_or(""), word, "{line}");

        let span = self.spans.last("request").fields;
        assert_eq!(span["sticky.outcome"], verdict.as_str(), "{span:?}");
        assert_eq!(span.get("sticky.reason").map_or("", String::as_str), word, "{span:?}");
        self.verdicts.insert(verdict.as_str());
        self.reasons.extend(reason.map(Reason::as_str));
    }
}

async fn expired_and_unusable_tokens(seen: &mut Seen) {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys())
        .idle_timeout(Duration::from_secs(60))
        .absolute_timeout(Duration::from_secs(100));
    let service = layer(&backends, cookie).clock(clock.clone()).into_service();
    let service = observed!(seen, service);
    let mut client = Client::default();
    seen.note(&backends, &client.send(&service, get()).await);
    seen.note(&backends, &client.send(&service, get()).await);
    for seconds in [61, 50, 51] {
        clock.advance(seconds);
        seen.note(&backends, &client.send(&service, get()).await);
    }
    let token = |backends: &Backends<Node>, keys: KeyRing| {
        let service = layer(backends, Cookie::sealed("sid", keys)).into_service();
        async move { Client::assigned(&service).await.token.unwrap() }
    };
    let other = Backends::named("other");
    other.insert("a", Node::new("a")).unwrap();
    let of_other_pool = token(&other, keys()).await;
    let forged = token(&backends, KeyRing::generate().unwrap()).await;
    for token in ["nonsense", &of_other_pool, &forged] {
        seen.note(&backends, &send(&service, with_cookie(&format!("sid={token}"))).await);
    }
}

async fn changes_by_the_operator(seen: &mut Seen) {
    let (backends, _nodes, service, mut client) = sealed_session(["a", "b"]).await;
    let service = observed!(seen, service);
    backends.set_mode("a", Mode::Disabled).unwrap();
    seen.note(&backends, &client.send(&service, get()).await);
    backends.set_mode("a", Mode::Active).unwrap();
    backends.drain("b").deadline(Duration::from_secs(1)).await.unwrap();
    seen.note(&backends, &client.send(&service, get()).await);
    backends.remove("a").unwrap();
    seen.note(&backends, &client.send(&service, get()).await);
    let mut bypassing = get();
    bypassing.extensions_mut().insert(Preference::bypass());
    seen.note(&backends, &client.send(&service, bypassing).await);
}

async fn failures_of_backends(seen: &mut Seen) {
    let (backends, [a, _b], service, client) = sealed_session(["a", "b"]).await;
    let service = observed!(seen, service);
    a.control.set_busy(true);
    seen.note(&backends, &client.clone().send(&service, get()).await);
    a.control.set_busy(false);
    a.control.os_error.store(Errno::MFILE.raw_os_error(), SeqCst);
    seen.note(&backends, &client.clone().send(&service, get()).await);
    a.control.os_error.store(0, SeqCst);
    refuse(&a, true);
    // The second one finds it down.
    for _ in 0..2 {
        seen.note(&backends, &client.clone().send(&service, get()).await);
    }

    let (backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    let service = observed!(seen, service);
    a.control.readiness_fails.store(true, SeqCst);
    seen.note(&backends, &client.send(&service, get()).await);
}

async fn a_move_for_balance(seen: &mut Seen) {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(3600));
    let idle = Duration::from_secs(300);
    let service = layer(&backends, cookie)
        .clock(clock.clone())
        .rebalance(Rebalance::new().idle_for(idle).max_per_second(1000))
        .unwrap()
        .into_service();
    let service = observed!(seen, service);
    let mut clients = vec![Client::default(); 20];
    for client in &mut clients {
        client.send(&service, get()).await;
        client.send(&service, get()).await;
    }
    backends.insert("b", Node::new("b")).unwrap();
    clock.advance(600);
    after(600_000).await;
    for client in &mut clients {
        let answer = client.send(&service, get()).await;
        if answer.decision().0 == Verdict::Moved {
            seen.note(&backends, &answer);
        }
    }
}

async fn other_ways_to_be_served(seen: &mut Seen) {
    let (backends, [a]) = nodes(["a"]);
    let service = observed!(seen, plain(&backends).last_resort(Node::new("sorry")));
    refuse(&a, true);
    seen.note(&backends, &send(&service, get()).await);

    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).local("b");
    let service = observed!(seen, tower::Layer::layer(&service, Node::new("b")));
    let mut forwarded = get();
    forwarded.headers_mut().insert("x-sticky-forwarded", "b".parse().unwrap());
    seen.note(&backends, &send(&service, forwarded).await);

    let broken = service_fn(|_: http::Request<Body>| async {
        Err::<Response<Body>, BoxError>(ClientError::new("the upload broke off").into())
    });
    let backends = Backends::from_iter([("a", broken)]);
    let service = StickyLayer::new(backends.clone(), Cookie::plain("sid")).outcome_extensions(true);
    let service = observed!(seen, service.into_service());
    let answer: Result<_, Infallible> = service.oneshot(get()).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 400);
    drop(answer);
    seen.note_outcome(&backends, Verdict::Rejected, Some(Reason::ClientError));
}

#[tokio::test(start_paused = true)]
async fn every_outcome_and_every_reason_is_in_the_metrics_the_log_and_the_span() {
    let (spans, _guard) = Spans::record();
    let mut seen = Seen::new(spans);
    expired_and_unusable_tokens(&mut seen).await;
    changes_by_the_operator(&mut seen).await;
    failures_of_backends(&mut seen).await;
    a_move_for_balance(&mut seen).await;
    other_ways_to_be_served(&mut seen).await;
    assert_eq!(seen.verdicts, Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect());
    assert_eq!(seen.reasons, Reason::ALL.iter().map(|reason| reason.as_str()).collect());
}
