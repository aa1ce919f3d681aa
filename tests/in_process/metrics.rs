//! Metrics: what is recorded of requests, and how it is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use http_body_util::BodyExt;
use tower::{Service, ServiceExt};
use tower_sticky::{
    Backends, Failover, Health, Mode, StickyLayer,
    affinity::Cookie,
    metrics::{Report, render},
    proxy::Upstream,
    store::{MemoryStore, RedisStore},
};

use crate::support::{
    Client, Node, after, get, keys, layer, nodes, plain, refuse, sealed, sealed_session,
    with_cookie,
};

/// The value of the sample that begins with this text.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(sample))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// The sum of the samples that begin with this text and contain all of `labels`.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| {
        line.starts_with(&format!("{name}{{")) && labels.iter().all(|label| line.contains(label))
    });
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(start_paused = true)]
async fn durations_by_method_and_status_have_the_names_of_opentelemetry() {
    let (backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    let mut brew = get();
    *brew.method_mut() = "BREW".parse().unwrap();
    client.send(&service, brew).await;
    a.control.status.store(500, SeqCst);
    client.send(&service, get()).await;
    a.hold_responses();
    let request = client.spawn(&service, get());
    after(100).await;
    let active = "http_server_active_requests{pool=\"default\",http_request_method=\"GET\"";
    assert_eq!(value(&render(&backends), active), Some(1.0));
    request.abort();
    let _ = request.await;
    a.release_responses();
    refuse(&a, true);
    client.send(&service, get()).await;

    let text = render(&backends);
    assert_eq!(value(&text, active), Some(0.0), "{text}");
    let count = |side: &str, method: &str, status: &str, error: &str| {
        let name = format!("http_{side}_request_duration_seconds_count");
        let labels = [
            format!("http_request_method=\"{method}\""),
            format!("http_response_status_code=\"{status}\""),
            format!("error_type=\"{error}\""),
        ];
        sum(&text, &name, &labels.each_ref().map(String::as_str))
    };
    assert_eq!(count("server", "GET", "200", ""), 2.0, "the first of the session and the last");
    assert_eq!(count("server", "_OTHER", "200", ""), 1.0);
    assert_eq!(count("server", "GET", "500", "500"), 1.0);
    assert_eq!(count("server", "GET", "", "canceled"), 1.0);
    assert_eq!(count("client", "GET", "", "connect-failed"), 1.0);
    assert_eq!(count("client", "GET", "200", ""), 2.0);
    let all = sum(&text, "http_server_request_duration_seconds_count", &[]);
    assert_eq!(all, sum(&text, "sticky_request_duration_seconds_count", &[]));
}

#[tokio::test(start_paused = true)]
async fn a_backend_cannot_make_up_series() {
    let (backends, [a], service, mut client) = sealed_session(["a"]).await;
    for status in 200..600 {
        a.control.status.store(status, SeqCst);
        client.send(&service, get()).await;
    }
    let text = render(&backends);
    let name = "http_server_request_duration_seconds_count";
    let series = text.lines().filter(|line| line.starts_with(name)).count();
    assert!(series <= 64, "{series} series");
    assert_eq!(sum(&text, name, &[]), 401.0, "none is lost");
    assert!(sum(&text, name, &["http_response_status_code=\"other\""]) > 300.0);
}

#[tokio::test(start_paused = true)]
async fn requests_are_counted_by_backend_outcome_reason_and_class() {
    let (backends, [a, b], service, mut client) = sealed_session(["a", "b"]).await;
    client.send(&service, get()).await;
    a.control.status.store(404, SeqCst);
    client.send(&service, get()).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    client.send(&service, get()).await;
    backends.set_mode("b", Mode::Disabled).unwrap();
    client.send(&service, get()).await;
    assert_eq!((a.served(), b.served()), (3, 1));

    let text = render(&backends);
    let request =
        |labels: &str| value(&text, &format!("sticky_requests_total{{pool=\"default\",{labels}}}"));
    for (labels, count) in [
        ("backend=\"a\",outcome=\"assigned\",reason=\"\",class=\"2xx\"", 1.0),
        ("backend=\"a\",outcome=\"pinned\",reason=\"\",class=\"2xx\"", 1.0),
        ("backend=\"a\",outcome=\"pinned\",reason=\"\",class=\"4xx\"", 1.0),
        ("backend=\"b\",outcome=\"moved\",reason=\"disabled\",class=\"2xx\"", 1.0),
        ("backend=\"\",outcome=\"rejected\",reason=\"disabled\",class=\"5xx\"", 1.0),
    ] {
        assert_eq!(request(labels), Some(count), "{labels}\n{text}");
    }
    assert_eq!(sum(&text, "sticky_requests_total", &[]), 5.0);
    assert_eq!(backends.snapshot().stats.requests(), 5);
    assert_eq!(sum(&text, "sticky_moves_total", &["from=\"a\",to=\"b\",reason=\"disabled\""]), 1.0);
    assert_eq!(sum(&text, "sticky_tokens_issued_total", &["cause=\"new\""]), 1.0);
    assert_eq!(sum(&text, "sticky_tokens_issued_total", &["cause=\"moved\""]), 1.0);
    assert_eq!(sum(&text, "sticky_violations_total", &[]), 0.0);
    let count = |name: &str| value(&text, &format!("{name}_count{{pool=\"default\"}}"));
    assert_eq!(count("sticky_request_duration_seconds"), Some(5.0), "rejected ones, too");
    assert_eq!(count("sticky_time_to_first_byte_seconds"), Some(4.0), "those with an answer");
    assert_eq!(count("sticky_wait_seconds"), Some(0.0), "no request had to wait");
}

#[tokio::test(start_paused = true)]
async fn refused_tokens_and_failed_connections_are_counted() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    service.clone().oneshot(with_cookie("sid=nonsense")).await.unwrap();
    refuse(&a, true);
    b.control.disconnects.store(true, SeqCst);
    let mut client = Client::default();
    client.send(&service, get()).await;
    let text = render(&backends);
    assert_eq!(sum(&text, "sticky_tokens_refused_total", &["reason=\"malformed\""]), 1.0);
    let failed = |labels: &[&str]| sum(&text, "sticky_backend_connections_failed_total", labels);
    assert!(failed(&["backend=\"a\"", "cause=\"refused\""]) >= 1.0, "{text}");
    assert!(failed(&["backend=\"b\"", "cause=\"broken\""]) >= 1.0, "{text}");
}

#[tokio::test(start_paused = true)]
async fn durations_end_with_the_body_and_waits_are_recorded_when_there_are_some() {
    let (backends, [a], service, client) = sealed_session(["a"]).await;
    a.hold_responses();
    let slow = client.spawn(&service, get());
    after(3000).await;
    a.release_responses();
    slow.await.unwrap();
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    let first = client.spawn(&service, get());
    after(1).await;
    let second = client.spawn(&service, get());
    after(150).await;
    a.release_responses();
    first.await.unwrap();
    second.await.unwrap();
    let text = render(&backends);
    let bucket = |name: &str, bound: &str| {
        value(&text, &format!("{name}_bucket{{pool=\"default\",le=\"{bound}\"}}"))
    };
    for name in ["sticky_time_to_first_byte_seconds", "sticky_request_duration_seconds"] {
        assert_eq!(bucket(name, "0.005"), Some(1.0), "the first request");
        assert_eq!(bucket(name, "2.5"), Some(3.0));
        assert_eq!(bucket(name, "5.0"), Some(4.0), "the slow one");
        assert_eq!(bucket(name, "+Inf"), Some(4.0));
        let sum = value(&text, &format!("{name}_sum")).unwrap();
        assert!((3.3..3.5).contains(&sum), "{name}: {sum}");
    }
    assert_eq!(bucket("sticky_wait_seconds", "0.1"), Some(0.0));
    assert_eq!(bucket("sticky_wait_seconds", "0.25"), Some(1.0));
}

#[tokio::test(start_paused = true)]
async fn a_response_in_one_piece_ends_with_its_head_however_late_it_is_read() {
    let (backends, _nodes, service, _client) = sealed_session(["a"]).await;
    let response = service.clone().oneshot(get()).await.unwrap();
    after(5_000).await;
    response.into_body().collect().await.unwrap();
    let seconds = value(&render(&backends), "sticky_request_duration_seconds_sum").unwrap();
    assert!(seconds < 1.0, "{seconds} s in all");
}

#[tokio::test(start_paused = true)]
async fn the_duration_of_an_attempt_counts_from_the_request() {
    let (backends, [a], service, client) = sealed_session(["a"]).await;
    backends.set_limit("a", 1).unwrap();
    after(10_000).await;
    a.hold_responses();
    let request = client.spawn(&service, get());
    after(1).await;
    let waits = client.spawn(&service, get());
    after(100).await;
    a.release_responses();
    request.await.unwrap();
    waits.await.unwrap();
    let seconds = sum(&render(&backends), "http_client_request_duration_seconds_sum", &[]);
    assert!((0.09..0.15).contains(&seconds), "{seconds} s in all, without the wait");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_its_client_gives_up_is_counted_once() {
    let (backends, [a], service, mut client) = sealed_session(["a"]).await;
    a.hold_responses();
    let request = client.spawn(&service, get());
    after(2000).await;
    request.abort();
    let _ = request.await;
    a.release_responses();
    client.send(&service, get()).await;
    let text = render(&backends);
    let canceled = "outcome=\"pinned\",reason=\"\",class=\"none\"";
    assert_eq!(sum(&text, "sticky_requests_total", &[canceled]), 1.0);
    assert_eq!(sum(&text, "sticky_requests_total", &[]), 3.0);
    let count = |name: &str| value(&text, &format!("{name}_count")).unwrap();
    assert_eq!(count("sticky_request_duration_seconds"), 3.0);
    assert_eq!(count("sticky_time_to_first_byte_seconds"), 2.0, "two were answered");
}

#[tokio::test(start_paused = true)]
async fn the_series_of_a_removed_backend_end() {
    let (backends, [_a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    backends.remove("a").unwrap();
    client.send(&service, get()).await;
    let text = render(&backends);
    assert!(!text.contains("\"a\""), "{text}");
    let moved = "outcome=\"assigned\",reason=\"unknown\"";
    assert_eq!(sum(&text, "sticky_requests_total", &["backend=\"b\"", moved]), 1.0, "{text}");
}

#[tokio::test]
async fn label_values_are_escaped_and_pools_are_told_apart() {
    let odd: Backends<Node> = Backends::named("a \"pool\"\\\nof two lines");
    let other: Backends<Node> = Backends::named("other");
    let report = Report::new().pool(&odd).pool(&other);
    for text in [report.prometheus(), report.open_metrics()] {
        assert!(text.contains("sticky_backends{pool=\"a \\\"pool\\\"\\\\\\nof two lines\"} 0\n"));
        assert!(text.contains("sticky_backends{pool=\"other\"} 0\n"));
        assert_eq!(text.matches("# TYPE sticky_backends gauge\n").count(), 1);
    }
}

#[tokio::test]
async fn open_metrics_names_families_without_the_suffix_and_ends_with_its_mark() {
    let (backends, [_a]) = nodes(["a"]);
    let text = Report::new().pool(&backends).open_metrics();
    assert!(text.contains("# TYPE sticky_violations counter\nsticky_violations_total{"), "{text}");
    assert!(text.contains("# UNIT sticky_wait_seconds seconds\n"));
    assert!(text.ends_with("\n# EOF\n"));
    assert!(!render(&backends).contains("# EOF"));
}

/// A pool with samples of every metric.
async fn everything() -> Backends<Node> {
    let (backends, [_a, _b]) = nodes(["a", "b"]);
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(60));
    let service = layer(&backends, cookie)
        .backend_histograms(true)
        .health(Health::new().probe_interval(Duration::from_secs(1)))
        .into_service();
    let mut client = Client::assigned(&service).await;
    // The number of sessions is known after an idle timeout.
    after(90_000).await;
    let own = client.send(&service, get()).await.body;
    backends.set_mode(&own, Mode::Disabled).unwrap();
    client.send(&service, get()).await;
    assert_eq!(backends.snapshot().stats.moves(), 1);
    backends
}

/// What the text says of each metric: its type, and the labels of its samples.
fn described(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (name, rest) = line.split_once('{').unwrap();
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| {
                name.strip_suffix(suffix).filter(|family| metrics.contains_key(*family))
            });
            let (_, labels) = metrics.get_mut(family.unwrap_or(name)).unwrap();
            let names = rest.split('=').filter_map(|part| part.rsplit([',', '"']).next());
            labels.extend(
                names
                    .filter(|name| name.chars().all(|c| c.is_alphabetic() || c == '_'))
                    .map(str::to_owned),
            );
        }
    }
    metrics
}

#[tokio::test(start_paused = true)]
async fn the_guide_lists_every_metric_with_its_type_and_its_labels() {
    let upstream = Upstream::new("http://127.0.0.1:9").unwrap();
    let on_redis = RedisStore::builder("redis://127.0.0.1:9").build().unwrap();
    let text = Report::new()
        .pool(&everything().await)
        .connections(&Backends::from_iter([("a", upstream)]))
        .memory_store("cookie sid", &MemoryStore::new(10))
        .redis_store("header x-id", &on_redis)
        .prometheus();
    let mut rendered = described(&text);
    for (_, labels) in rendered.values_mut() {
        labels.remove("le");
        labels.remove("");
    }
    let page = include_str!("../../src/guide/metrics.md");
    // The gateway's own are not of the library.
    let (page, _) = page.split_once("# The gateway").unwrap();
    let is_row = |line: &&str| line.starts_with("| `sticky_") || line.starts_with("| `http_");
    let rows = page.lines().filter(is_row).filter_map(|line| line.strip_prefix("| "));
    let listed: BTreeMap<_, _> = rows
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(|cell| cell.replace('`', "")).collect();
            let labels = cells[3].split(',').map(|label| label.trim().to_owned()).collect();
            let name = cells[0].trim().to_owned();
            (name, (cells[1].trim().to_owned(), labels))
        })
        .collect();
    assert_eq!(listed, rendered);
}

#[test]
fn what_the_dashboard_and_the_alerts_name_exists() {
    // The page has all metrics, those of the gateway too: other tests compare it with what is rendered.
    let page = include_str!("../../src/guide/metrics.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let known: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    let is_ours = |word: &&str| {
        ["sticky_", "http_server_", "http_client_"].iter().any(|prefix| word.starts_with(prefix))
    };
    for (file, text) in [
        ("grafana.json", include_str!("../../contrib/grafana.json")),
        ("alerts.yml", include_str!("../../contrib/alerts.yml")),
    ] {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut count = 0;
        for word in text.split(|c| !is_part(c)).filter(is_ours) {
            let family = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| {
                word.strip_suffix(suffix).filter(|family| known.contains(family))
            });
            assert!(known.contains(family.unwrap_or(word)), "{file} names {word}");
            count += 1;
        }
        assert!(count > 5, "{file} names metrics");
    }
}

#[tokio::test(start_paused = true)]
async fn drains_are_counted_by_their_end() {
    let (backends, [_a, _b]) = nodes(["a", "b"]);
    let _layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
    backends.drain("a").then(Failover::Repin).await.unwrap();
    let text = render(&backends);
    assert_eq!(sum(&text, "sticky_drains_total", &["end=\"completed\""]), 1.0);
    assert_eq!(sum(&text, "sticky_drains_total", &[]), 1.0);
    assert_eq!(sum(&text, "sticky_backend_mode", &["backend=\"a\"", "mode=\"draining\""]), 1.0);
    assert_eq!(sum(&text, "sticky_backend_mode", &["backend=\"a\""]), 1.0, "one mode is set");
}

#[tokio::test(start_paused = true)]
async fn a_future_that_is_never_polled_does_nothing_and_is_not_counted() {
    let (backends, _, service, mut client) = sealed_session(["a"]).await;
    drop(service.clone().call(get()));
    let text = render(&backends);
    assert_eq!(sum(&text, "sticky_requests_total", &[]), 1.0, "the first of the session");
    assert_eq!(sum(&text, "http_server_active_requests", &[]), 0.0, "{text}");
    assert_eq!(backends.snapshot().stats.requests(), 1);
    client.send(&service, get()).await;
    assert_eq!(backends.snapshot().stats.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn durations_tell_the_scheme_of_the_client() {
    let (backends, _nodes) = nodes(["a"]);
    let service = plain(&backends).into_service();
    for (https, of_each) in [(false, [1.0, 0.0]), (true, [1.0, 1.0])] {
        let mut request = get();
        let peer = tower_sticky::Peer::new("10.0.0.7:51000".parse().unwrap()).https(https);
        request.extensions_mut().insert(peer);
        crate::support::send(&service, request).await;
        let text = render(&backends);
        let counted = ["http", "https"].map(|scheme| {
            let label = format!("url_scheme=\"{scheme}\"");
            sum(&text, "http_server_request_duration_seconds_count", &[&label])
        });
        assert_eq!(counted, of_each);
    }
}
