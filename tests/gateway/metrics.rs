//! The metrics on the admin address.

use std::collections::BTreeSet;

use http::{Method, StatusCode};

use crate::{
    admin::setup,
    backends::echo,
    client::{self, Client, get},
    process::Gateway,
};

#[tokio::test]
async fn metrics_are_prometheus_text_and_openmetrics_by_request() {
    let setup = setup().await;
    let mut client = Client::new(setup.gateway.addr);
    let own = client.get("/").await.backend();
    client.get("/?secret=of-the-request").await;
    let answer = get(setup.admin, "/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text();
    for outcome in ["assigned", "pinned"] {
        let labels =
            format!("pool=\"default\",backend=\"{own}\",outcome=\"{outcome}\",reason=\"\"");
        let sample = format!("sticky_requests_total{{{labels},class=\"2xx\"}} 1\n");
        assert!(text.contains(&sample), "{sample}{text}");
    }
    assert!(text.contains("sticky_request_duration_seconds_count{pool=\"default\"} 2\n"), "{text}");
    assert!(!text.contains("secret"), "nothing of a request is in the metrics");

    let accepts = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let answer = client::send(setup.admin, Method::GET, "/metrics", &accepts, "").await;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(answer.header("content-type"), media_type);
    assert!(answer.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn without_the_token_the_metrics_are_read_only_where_that_is_allowed() {
    let backend = echo("a").await;
    for (key, expected) in [("", StatusCode::UNAUTHORIZED), ("metrics_open = true", StatusCode::OK)]
    {
        let mut gateway = Gateway::configured(&format!(
            "admin = \"127.0.0.1:0\"\nadmin_token = \"open sesame\"\n{key}\n\
             [[backend]]\nid = \"a\"\nurl = \"{}\"",
            backend.url()
        ))
        .await;
        let admin = gateway.admin_addr().await;
        assert_eq!(get(admin, "/metrics").await.status, expected, "{key:?}");
        assert_eq!(get(admin, "/stats").await.status, StatusCode::UNAUTHORIZED, "{key:?}");
        let post = client::send(admin, Method::POST, "/metrics", &[], "").await;
        assert_eq!(post.status, StatusCode::UNAUTHORIZED, "{key:?}");
        let foreign = [("host", "evil.example")];
        let answer = client::send(admin, Method::GET, "/metrics", &foreign, "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{key:?}");
        let right = [("authorization", "Bearer open sesame")];
        let answer = client::send(admin, Method::GET, "/metrics", &right, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{key:?}");
    }
}

#[tokio::test]
async fn the_page_has_the_metrics_of_the_gateway_itself() {
    let backend = echo("a").await;
    let config = format!(
        "admin = \"127.0.0.1:0\"\n[access_log]\nfile = \"/dev/null\"\n{}",
        backend.entry("a")
    );
    let mut gateway = Gateway::configured(&config).await;
    let text = get(gateway.admin_addr().await, "/metrics").await.text();
    let rendered: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| {
            ["sticky_config_", "sticky_access_log_", "sticky_gateway_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .collect();
    let page = include_str!("../../src/guide/metrics.md");
    let (_, section) = page.split_once("# The gateway").unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<_> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(listed, rendered);
}
