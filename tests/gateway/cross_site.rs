//! The page `cross_site`: which cookies go along with a form that another site sends, and which server it reaches.

use http::Method;

use crate::{
    backends::{Backend, echo},
    client::{Answer, Client, send},
    page,
};

/// Whether a browser sends a cookie with a POST from another site, by RFC 6265bis, section 5.6.7. `within_two_minutes`
/// is Chromium's exception for cookies without the attribute ("Lax+POST").
fn goes_along(cookie: &str, within_two_minutes: bool) -> bool {
    let attributes: Vec<_> = cookie.split("; ").skip(1).collect();
    let same_site = attributes.iter().find_map(|attribute| attribute.strip_prefix("SameSite="));
    match same_site {
        Some("None") => attributes.contains(&"Secure"),
        Some(_) => false,
        None => within_two_minutes,
    }
}

/// A login over https, and the return from another site: its servers, and the outcome.
async fn pay(configuration: &str, within_two_minutes: bool) -> (String, String, Answer) {
    let servers = [echo("one").await, echo("two").await];
    let gateway = crate::process::Gateway::configured_with(
        &with_servers(configuration, &servers),
        &[("STICKY_KEY", crate::config::KEY)],
    )
    .await;
    let mut browser = Client::new(gateway.addr);
    let login = browser.get("/login").await;
    let cookie = login.header("set-cookie").to_owned();
    let pair = cookie.split(';').next().unwrap();
    let headers: &[_] = match goes_along(&cookie, within_two_minutes) {
        true => &[("cookie", pair)],
        false => &[],
    };
    let back = send(gateway.addr, Method::POST, "/paid", headers, "result=ok").await;
    (login.backend(), back.backend(), back)
}

fn with_servers(configuration: &str, servers: &[Backend; 2]) -> String {
    let mut text = configuration.to_owned();
    for (number, server) in (1..).zip(servers) {
        text = text.replace(&format!("http://10.0.0.{number}:8080"), &server.url());
    }
    text.replace("admin = \"127.0.0.1:9090\"", "server_timing = true")
}

#[tokio::test]
async fn a_return_from_another_site_reaches_its_server() {
    let configurations = page::blocks("cross_site.md", "toml");
    for within_two_minutes in [true, false] {
        let (server, back, answer) = pay(&configurations[0], within_two_minutes).await;
        assert_eq!((&back, answer.header("set-cookie")), (&server, ""));
        assert!(answer.header("server-timing").contains("pinned"));
    }
}

#[tokio::test]
async fn without_the_attribute_it_does_so_for_two_minutes() {
    let configurations = page::blocks("cross_site.md", "toml");
    let (server, back, _) = pay(&configurations[1], true).await;
    assert_eq!(back, server);
    let (server, back, _) = pay(&configurations[1], false).await;
    assert_ne!(back, server);
}

#[tokio::test]
async fn with_lax_it_is_a_new_session_elsewhere() {
    let configurations = page::blocks("cross_site.md", "toml");
    let lax = configurations[1].replace("same_site = \"unset\"", "same_site = \"lax\"");
    let (server, back, answer) = pay(&lax, true).await;
    assert_ne!(back, server, "round robin: the other server gets the payment");
    assert!(answer.header("server-timing").contains("assigned"));
    assert!(answer.header("set-cookie").starts_with("SERVER_ID="), "the old cookie is replaced");
}
