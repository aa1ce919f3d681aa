//! Sessions whose ids the application makes: ids that name their backend, and ids in `Location`.

use http::Method;

use crate::{
    backends::{Backend, echo},
    client::{Answer, send},
    process::Gateway,
};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

async fn gateway(config: &str, backends: &[Backend; 2]) -> Gateway {
    let [a, b] = backends;
    let file = format!(
        "server_timing = true\n{config}\n[strategy]\ntype = \"round-robin\"\n{}{}",
        a.entry("node1"),
        b.entry("node2")
    );
    Gateway::configured_with(&file, &[("STICKY_KEY", KEY)]).await
}

async fn ask(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(gateway.addr, Method::GET, path, headers, "").await
}

#[tokio::test]
async fn a_session_id_of_tomcat_goes_to_its_node() {
    let backends = [echo("one").await, echo("two").await];
    let by_cookie = "[[affinity]]\ntype = \"route\"\ncookie = \"JSESSIONID\"\nseparator = \".\"\n";
    let by_path =
        "[[affinity]]\ntype = \"route\"\npath_parameter = \"jsessionid\"\nseparator = \".\"\n";
    let gateway = gateway(&format!("{by_cookie}{by_path}"), &backends).await;
    for _ in 0..3 {
        let cookie = "x=1; JSESSIONID=0A1B2C.node2";
        let answer = ask(&gateway, "/cart", &[("cookie", cookie)]).await;
        assert_eq!(answer.header("server-timing"), "sticky;desc=\"pinned node2\"");
        assert_eq!(answer.backend(), "two");
        assert_eq!(answer.json()["headers"]["cookie"][0], cookie, "unchanged");
        assert_eq!(answer.header("set-cookie"), "", "nothing is added");
        let answer = ask(&gateway, "/cart;jsessionid=0A1B2C.node1?x=y", &[]).await;
        assert_eq!(answer.header("server-timing"), "sticky;desc=\"pinned node1\"");
    }
    let answer = ask(&gateway, "/cart", &[("cookie", "JSESSIONID=0A1B2C.node3")]).await;
    assert!(answer.header("server-timing").starts_with("sticky;desc=\"assigned"));
}

#[tokio::test]
async fn two_gateways_agree_about_sealed_routes() {
    let backends = [echo("one").await, echo("two").await];
    let config = "[session_headers]\nenabled = true\n[[affinity]]\ntype = \"route\"\nquery = \"sid\"\n\
                  separator = \".\"\nformat = \"sealed\"\nkeys = [\"env:STICKY_KEY\"]\n";
    let gateways = [gateway(config, &backends).await, gateway(config, &backends).await];
    for _ in 0..2 {
        let first = ask(&gateways[0], "/socket.io/?EIO=4", &[("x-sticky-route", "forged")]).await;
        let route = first.json()["headers"]["x-sticky-route"][0].as_str().unwrap().to_owned();
        assert_eq!(route.len(), 13);
        for gateway in &gateways {
            let path = format!("/socket.io/?EIO=4&sid=Zm9v.{route}");
            let answer = ask(gateway, &path, &[]).await;
            assert_eq!(answer.backend(), first.backend());
            assert!(answer.header("server-timing").starts_with("sticky;desc=\"pinned"));
        }
    }
}
