//! The records of requests, and their lines.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_sticky::{
    Peer, Verdict,
    metrics::access_log::{
        AccessLog, AccessLogLayer, AccessRecord, End, Format, LogFile, OnAccess,
    },
};

use crate::support::{Body, get, post, refuse, sealed_session, with_header};

type Records = Arc<Mutex<Vec<AccessRecord>>>;

fn layer() -> (AccessLogLayer, Records) {
    let records = Records::default();
    let of_layer = records.clone();
    let layer = AccessLogLayer::new(move |record: &AccessRecord| {
        of_layer.lock().unwrap().push(record.clone());
    });
    (layer, records)
}

type BoxBody = UnsyncBoxBody<Bytes, io::Error>;

/// A service that answers with this body.
fn answering(
    body: impl Fn() -> BoxBody + Clone,
) -> impl Service<http::Request<Body>, Response = Response<BoxBody>, Error = Infallible> + Clone {
    service_fn(move |_: http::Request<Body>| {
        let response = Response::new(body());
        async move { Ok(response) }
    })
}

fn whole() -> BoxBody {
    Full::new(Bytes::from("12345")).map_err(|never| match never {}).boxed_unsync()
}

/// A body that fails after its first frame.
fn broken() -> BoxBody {
    let frames = [Ok(http_body::Frame::data(Bytes::from("123"))), Err(io::Error::other("broken"))];
    StreamBody::new(tokio_stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn a_record_says_how_the_response_ended() {
    let (layer, records) = layer();
    let service =
        |body: fn() -> BoxBody| ServiceBuilder::new().layer(&layer).service(answering(body));
    let take = || records.lock().unwrap().pop().expect("a record");

    let response = service(whole).oneshot(get()).await.unwrap();
    assert!(records.lock().unwrap().is_empty(), "the body has not ended");
    response.into_body().collect().await.unwrap();
    let record = take();
    assert_eq!((record.end(), record.bytes(), record.status()), (End::Complete, 5, 200));
    assert!(record.first_byte().is_some_and(|first_byte| first_byte <= record.duration()));
    assert_eq!(record.outcome(), None, "there is no sticky service");

    // hyper does not read the body of the answer to a HEAD.
    let mut head = get();
    *head.method_mut() = Method::HEAD;
    drop(service(whole).oneshot(head).await.unwrap());
    let record = take();
    assert_eq!((record.end(), record.bytes()), (End::Complete, 0));

    drop(service(whole).oneshot(get()).await.unwrap());
    let record = take();
    assert_eq!((record.end(), record.bytes(), record.status()), (End::ClientLeft, 0, 200));

    // A server need not ask for the end after the last byte.
    let mut body = service(whole).oneshot(get()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(take().end(), End::Complete);

    service(broken).oneshot(get()).await.unwrap().into_body().collect().await.unwrap_err();
    let record = take();
    assert_eq!((record.end(), record.bytes()), (End::Broken, 3));
    assert!(record.is_notable());
    assert!(records.lock().unwrap().is_empty(), "one for each request");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_has_a_record_with_its_outcome() {
    let (layer, records) = layer();
    let (_backends, [a, _b], service, client) = sealed_session(["a", "b"]).await;
    let service = ServiceBuilder::new().layer(layer).service(service);
    a.hold_responses();
    let mut client = client;
    let request = tokio::time::timeout(Duration::from_secs(3), client.send(&service, get()));
    assert!(request.await.is_err());
    let record = records.lock().unwrap().pop().unwrap();
    let outcome = record.outcome().expect("the outcome is known");
    assert_eq!((outcome.verdict(), outcome.attempts()), (Verdict::Pinned, 1));
    assert_eq!(outcome.backend().unwrap().as_str(), "a", "it had the request");
    assert_eq!((record.status(), record.answer()), (499, None));
    assert_eq!(record.duration(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn the_client_is_the_one_that_a_trusted_proxy_names() {
    let (layer, records) = layer();
    let layer = layer.trusted_proxies(["10.0.0.0/8".parse().unwrap()]);
    for (peer, trusted, expected) in [
        ("10.0.0.1:5000", false, Some("192.0.2.7:0")),
        ("192.0.2.1:5000", true, Some("192.0.2.7:0")),
        ("192.0.2.1:5000", false, Some("192.0.2.1:5000")),
        ("0.0.0.0:0", false, None),
    ] {
        let mut request = with_header("x-forwarded-for", "198.51.100.9, 192.0.2.7, 10.9.9.9");
        if !trusted && !peer.starts_with("10.") {
            request.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
        }
        if trusted {
            request.headers_mut().insert("x-forwarded-for", "192.0.2.7".parse().unwrap());
        }
        request.extensions_mut().insert(Peer::new(peer.parse().unwrap()).trusted(trusted));
        let service = ServiceBuilder::new().layer(&layer).service(answering(whole));
        drop(service.oneshot(request).await.unwrap());
        let record = records.lock().unwrap().pop().unwrap();
        assert_eq!(record.client().map(|addr| addr.to_string()).as_deref(), expected, "{peer}");
    }
}

/// A writer that another thread reads.
struct Sent(mpsc::Sender<Vec<u8>>);

impl io::Write for Sent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(format: Format) -> (AccessLog, LogFile, mpsc::Receiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::channel();
    let file = LogFile::to(Sent(sender), 100).unwrap();
    (AccessLog::new(format, file.clone()), file, receiver)
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn the_flags_of_haproxy_say_what_became_of_the_request() {
    let (log, file, written) = log(Format::Haproxy);
    let (backends, [a, b], service, mut client) = sealed_session(["a", "b"]).await;
    let service =
        ServiceBuilder::new().layer(AccessLogLayer::new(log.name("shop"))).service(service);
    let mut cases = Vec::new();
    let pinned = client.send(&service, get()).await;
    cases.push((pinned.status, " --VN ", " 0/0/0/0/0 "));
    let new = crate::support::send(&service, get()).await;
    cases.push((new.status, " --NI ", " 0/0/0/0/0 "));
    let forged = crate::support::send(&service, with_header("cookie", "sid=nonsense")).await;
    cases.push((forged.status, " --II ", " 0/0/0/0/0 "));
    refuse(&a, true);
    let moved = client.send(&service, get()).await;
    cases.push((moved.status, " --DU ", " 0/0/0/0/+1 "));
    refuse(&b, true);
    backends.set_mode("a", tower_sticky::Mode::Disabled).unwrap();
    let rejected = client.send(&service, get()).await;
    cases.push((rejected.status, "DN ", " 0/0/0/0/"));
    assert!(file.flush(LONG));
    let text: Vec<u8> = written.try_iter().flatten().collect();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().count(), cases.len(), "{text}");
    for (line, (status, flags, retries)) in text.lines().zip(cases) {
        assert!(line.contains(flags) && line.contains(retries), "{flags} {retries}: {line}");
        assert!(line.contains(&format!(" {status} ")) && line.contains(" shop shop/"), "{line}");
    }
}

#[tokio::test]
async fn the_query_is_written_if_asked_for_and_an_empty_path_is_a_slash() {
    for (with_query, written_as) in [(false, ["/a", "/"]), (true, ["/a?b=c", "/?b=c"])] {
        let (log, file, written) = log(Format::Json);
        let layer = AccessLogLayer::new(log.query(with_query));
        let service = ServiceBuilder::new().layer(layer).service(answering(whole));
        for target in ["http://shop/a?b=c", "http://shop?b=c"] {
            let request = http::Request::get(target).body(Body::default()).unwrap();
            drop(service.clone().oneshot(request).await.unwrap());
        }
        assert!(file.flush(LONG));
        let text: Vec<u8> = written.try_iter().flatten().collect();
        let text = String::from_utf8(text).unwrap();
        for (line, target) in text.lines().zip(written_as) {
            assert!(line.contains(&format!("\"path\":\"{target}\"")), "{line}");
        }
        assert_eq!(text.lines().count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn of_a_sample_those_that_are_notable_are_all_written() {
    let (log, file, written) = log(Format::Common);
    let log = log.sample(0.25);
    let (layer, records) = layer();
    let service = ServiceBuilder::new().layer(&layer).service(answering(whole));
    service.oneshot(post()).await.unwrap().into_body().collect().await.unwrap();
    let normal = records.lock().unwrap().pop().unwrap();
    let service = ServiceBuilder::new().layer(&layer).service(answering(broken));
    drop(service.oneshot(get()).await.unwrap());
    let notable = records.lock().unwrap().pop().unwrap();
    for _ in 0..400 {
        log.record(&normal);
        file.flush(LONG);
    }
    for _ in 0..50 {
        log.record(&notable);
    }
    assert!(file.flush(LONG));
    let text: Vec<u8> = written.try_iter().flatten().collect();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("GET")).count(), 50);
    let sampled = text.lines().filter(|line| line.contains("POST")).count();
    // Ten standard deviations.
    assert!((13..187).contains(&sampled), "{sampled} of 400 for a share of 0.25");
}

/// A disk that is blocked until it is told to go on.
struct Blocked(mpsc::Receiver<()>);

impl io::Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_beyond_the_queue_of_a_blocked_disk_are_dropped_and_counted() {
    let (go, wait) = mpsc::channel();
    let file = LogFile::to(Blocked(wait), 10).unwrap();
    for _ in 0..100 {
        file.write(b"a line\n");
    }
    // The thread holds up to the queue's length, and as many wait.
    let dropped = file.dropped();
    assert!((80..=90).contains(&dropped), "{dropped}");
    assert!(!file.flush(Duration::from_millis(1)), "it is blocked");
    drop(go);
    assert!(file.flush(LONG));
    assert_eq!((file.written(), file.dropped()), (100 - dropped, dropped));
}

#[test]
fn a_disk_that_fails_is_counted_and_does_not_end_the_log() {
    struct Full(u32);
    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 == 1 { Err(io::Error::other("no space left")) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let file = LogFile::to(Full(0), 10).unwrap();
    file.write(b"lost\n");
    assert!(file.flush(LONG));
    assert_eq!((file.written(), file.dropped()), (0, 1));
    file.write(b"kept\n");
    assert!(file.flush(LONG));
    assert_eq!((file.written(), file.dropped()), (1, 1));
}
