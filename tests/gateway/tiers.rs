//! The order of candidates: primaries before backups, and the own zone before others.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    backends::{echo, mortal},
    client::{self, Client, get},
    process::Gateway,
};

#[tokio::test]
async fn sessions_stay_on_a_backup_or_return_as_configured() {
    for (option, own) in [("", "b"), ("backup = \"stay\"", "b"), ("backup = \"return\"", "a")] {
        let (a, b) = (mortal("a").await, echo("b").await);
        let gateway = Gateway::configured(&format!(
            "[failover]\n{option}\n[health]\noutlier = {{ ejection = \"100ms\" }}\n\
             [[backend]]\nid = \"b\"\nurl = \"{}\"\nbackup = true\n\
             [[backend]]\nid = \"a\"\nurl = \"{}\"\n",
            b.url(),
            a.backend.url(),
        ))
        .await;
        let mut client = Client::new(gateway.addr);
        assert_eq!(client.get("/").await.backend(), "a", "{option}: the primary is up");
        let (dead, router) = a.die().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.backend(), "b", "{option}: the primary is down");
        }
        let _a = dead.come_back(router);
        while Client::new(gateway.addr).get("/").await.backend() != "a" {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.get("/").await.backend(), own, "{option}: the primary is back");
    }
}

#[tokio::test]
async fn new_sessions_prefer_backends_of_the_same_zone() {
    let (a, b) = (echo("a").await, echo("b").await);
    let mut gateway = Gateway::configured(&format!(
        "zone = \"eu-1\"\nadmin = \"127.0.0.1:0\"\n[strategy]\ntype = \"round-robin\"\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"\nzone = \"us-1\"\n\
         [[backend]]\nid = \"b\"\nurl = \"{}\"\nzone = \"eu-1\"\n",
        a.url(),
        b.url()
    ))
    .await;
    let admin = gateway.admin_addr().await;
    let put = async |id: &str, body: Value| {
        let path = format!("/backends/{id}");
        let answer = client::send(admin, Method::PUT, &path, &[], &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let now = answer.json();
        (now["zone"].clone(), now["backup"].clone())
    };
    let everybody_goes_to = async |id: &str, why: &str| {
        for _ in 0..4 {
            assert_eq!(get(gateway.addr, "/").await.backend(), id, "{why}");
        }
    };
    everybody_goes_to("b", "it is in the gateway's zone").await;
    let here = put("a", json!({ "url": a.url(), "zone": "eu-1" })).await;
    assert_eq!(here, (json!("eu-1"), json!(false)));
    let nowhere = put("b", json!({ "url": b.url() })).await;
    assert_eq!(nowhere, (Value::Null, json!(false)), "an absent field has its default");
    everybody_goes_to("a", "they have changed places").await;
    let spare = put("a", json!({ "url": a.url(), "zone": "eu-1", "backup": true })).await;
    assert_eq!(spare, (json!("eu-1"), json!(true)));
    everybody_goes_to("b", "a backup in the own zone is still a backup").await;
}

#[tokio::test]
async fn the_command_line_sets_backup_and_zone() {
    let (a, b) = (echo("a").await, echo("b").await);
    let flags = [format!("{},backup,zone=eu-1", a.flag("a")), b.flag("b")];
    let args = ["--admin", "127.0.0.1:0", "--backend", &flags[0], "--backend", &flags[1]];
    let mut gateway = Gateway::start(&args).await;
    let admin = gateway.admin_addr().await;
    let list = get(admin, "/backends").await.json();
    assert_eq!((&list[0]["backup"], &list[0]["zone"]), (&json!(true), &json!("eu-1")));
    assert_eq!((&list[1]["backup"], &list[1]["zone"]), (&json!(false), &Value::Null));
    assert_eq!(get(gateway.addr, "/").await.backend(), "b");
}
