//! A shortage of this machine is no evidence against a backend, and moves no session.

use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use rustix::io::Errno;
use tokio::time::Instant;
use tower::{Service, ServiceExt};
use tower_sticky::{
    Health, HttpProbe, Reason, Shortage, State, StickyError, Verdict, proxy::Upstream,
};

use crate::support::{
    Body, Client, after, get, nodes, plain, sealed_session, spawn, state, until, with_cookie,
};

#[tokio::test(start_paused = true)]
async fn a_local_shortage_is_no_evidence_and_moves_no_session() {
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRINUSE] {
        let (backends, [a, b], service, mut client) = sealed_session(["a", "b"]).await;
        let token = client.token.clone();
        a.control.os_error.store(errno.raw_os_error(), SeqCst);
        for _ in 0..20 {
            let answer = client.send(&service, get()).await;
            let why = (answer.status, answer.decision().0, answer.decision().2);
            assert_eq!(why, (503, Verdict::Rejected, Some(Reason::Shortage)), "{errno:?}");
            assert_eq!(answer.headers["retry-after"], "1");
            assert!(answer.set_cookies().is_empty(), "an error of ours never pins");
        }
        assert_eq!(backends.get("a").unwrap().state, State::Ready, "{errno:?}");
        assert_eq!(b.served(), 0);
        a.control.os_error.store(0, SeqCst);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
        assert_eq!(client.token, token);
        let stats = backends.snapshot().stats;
        assert_eq!((stats.moves(), stats.reason(Reason::Shortage)), (0, 20));
    }
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_address_is_a_failed_connection() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let mut client = Client { token: Some("a".into()) };
    a.control.os_error.store(Errno::ADDRNOTAVAIL.raw_os_error(), SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
}

#[tokio::test(start_paused = true)]
async fn an_error_names_the_shortage() {
    let (backends, [a]) = nodes(["a"]);
    let mut service = plain(&backends).propagate_errors().into_service();
    a.control.os_error.store(Errno::MFILE.raw_os_error(), SeqCst);
    let error = service.ready().await.unwrap().call(get()).await.unwrap_err();
    let StickyError::Shortage { backend, source } = &error else { panic!("{error:?}") };
    assert_eq!((backend.as_str(), error.status().as_u16(), error.grpc_code()), ("a", 503, 14));
    let io = source.source().and_then(|error| error.downcast_ref::<io::Error>()).unwrap();
    assert_eq!(Shortage::of(io), Some(Shortage::ProcessFiles));
}

#[tokio::test(start_paused = true)]
async fn a_probe_or_redial_without_a_descriptor_gives_no_result() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let probe = HttpProbe::get("/healthz").map_body(|_| Body::default());
    let health = Health::new().probe(probe).fall(2).probe_interval(Duration::from_secs(1));
    let layer = plain(&backends).health(health);
    assert!(layer.start::<Request<Body>>());
    let service = layer.into_service();
    let mut client = Client { token: Some("a".into()) };
    assert_eq!(client.send(&service, get()).await.status, 200);
    a.control.os_error.store(Errno::MFILE.raw_os_error(), SeqCst);
    let polled = a.control.polls.load(SeqCst);
    after(30_000).await;
    assert!(a.control.polls.load(SeqCst) > polled + 25, "it is probed");
    assert_eq!(backends.get("a").unwrap().state, State::Ready, "no probe has failed");

    // A redial without a free descriptor is repeated.
    a.control.os_error.store(0, SeqCst);
    a.control.redialable.store(true, SeqCst);
    a.control.refuses.store(true, SeqCst);
    client.send(&service, get()).await;
    a.control.os_error.store(Errno::MFILE.raw_os_error(), SeqCst);
    a.control.refuses.store(false, SeqCst);
    after(5_000).await;
    assert_ne!(backends.get("a").unwrap().state, State::Ready);
    a.control.os_error.store(0, SeqCst);
    until(&backends, "a", State::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_redial_without_a_descriptor_is_no_refusal_by_a_backend_that_does_not_answer() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.redialable.store(true, SeqCst);
    a.control.disconnects.store(true, SeqCst);
    let request = spawn(&service, with_cookie("sid=a"));
    after(1).await;
    a.control.os_error.store(Errno::MFILE.raw_os_error(), SeqCst);
    after(500).await;
    let redials = || a.control.redials.load(SeqCst);
    let failed = redials();
    assert!(failed > 0);
    a.control.os_error.store(0, SeqCst);
    assert_eq!(request.await.unwrap().body, "b");
    after(5_000).await;
    assert!(redials() > failed, "it accepts");
    assert_eq!(state(&backends, "a"), State::Suspect, "and has not answered yet");
}

/// Without idle connections to close, there is only time to wait for.
#[tokio::test(start_paused = true)]
async fn a_connection_that_lacks_a_resource_is_tried_again_after_a_pause() {
    for (limit, pause) in [(1000, 50), (40, 20)] {
        let lookups = Arc::new(AtomicUsize::new(0));
        let count = lookups.clone();
        let resolve = move |_: String| {
            count.fetch_add(1, SeqCst);
            async { Err::<Vec<IpAddr>, _>(io::Error::from(Errno::MFILE)) }
        };
        let upstream = Upstream::new("http://app.test").unwrap().resolver(resolve);
        let upstream = upstream.connect_timeout(Duration::from_millis(limit));
        let begun = Instant::now();
        upstream.oneshot(get()).await.unwrap_err();
        let paused = begun.elapsed().as_millis();
        assert!((pause..pause + 5).contains(&paused), "{paused} ms, within half of the time");
        assert_eq!(lookups.load(SeqCst), 2, "once more");
    }
}
