//! Every outcome and every reason is produced once, and is in the metrics by the same word.

use std::{
    collections::BTreeSet, convert::Infallible, sync::atomic::Ordering::SeqCst, time::Duration,
};

use http::Response;
use rustix::io::Errno;
use tower::{BoxError, ServiceExt, service_fn};
use tower_sticky::{
    Backends, ClientError, KeyRing, Mode, Preference, Reason, Rebalance, StickyLayer, Verdict,
    affinity::Cookie, metrics::render,
};

use crate::support::{
    Answer, Body, Client, Clock, Node, after, get, keys, layer, nodes, plain, refuse,
    sealed_session, send, with_cookie,
};

/// The verdicts and reasons that were seen.
#[derive(Default)]
struct Seen {
    verdicts: BTreeSet<&'static str>,
    reasons: BTreeSet<&'static str>,
}

impl Seen {
    /// The last answer of a pool has this outcome, and the metrics of the pool have it, too.
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
    let service = plain(&backends).last_resort(Node::new("sorry"));
    refuse(&a, true);
    seen.note(&backends, &send(&service, get()).await);

    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).local("b");
    let service = tower::Layer::layer(&service, Node::new("b"));
    let mut forwarded = get();
    forwarded.headers_mut().insert("x-sticky-forwarded", "b".parse().unwrap());
    seen.note(service.backends(), &send(&service, forwarded).await);

    let broken = service_fn(|_: http::Request<Body>| async {
        Err::<Response<Body>, BoxError>(ClientError::new("the upload broke off").into())
    });
    let backends = Backends::from_iter([("a", broken)]);
    let service = StickyLayer::new(backends.clone(), Cookie::plain("sid")).into_service();
    let answer: Result<_, Infallible> = service.oneshot(get()).await;
    assert_eq!(answer.unwrap().status(), 400);
    seen.note_outcome(&backends, Verdict::Rejected, Some(Reason::ClientError));
}

#[tokio::test(start_paused = true)]
async fn every_outcome_and_every_reason_is_in_the_metrics() {
    let mut seen = Seen::default();
    expired_and_unusable_tokens(&mut seen).await;
    changes_by_the_operator(&mut seen).await;
    failures_of_backends(&mut seen).await;
    a_move_for_balance(&mut seen).await;
    other_ways_to_be_served(&mut seen).await;
    assert_eq!(seen.verdicts, Verdict::ALL.iter().map(|verdict| verdict.as_str()).collect());
    assert_eq!(seen.reasons, Reason::ALL.iter().map(|reason| reason.as_str()).collect());
}
