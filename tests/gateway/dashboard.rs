//! The dashboard of the gateway, and explanations of tokens.

use http::{Method, StatusCode};
use serde_json::json;

use crate::{
    admin::setup,
    backends::echo,
    client::{self, Client, get},
    config::KEY,
    process::{ConfigFile, Gateway, run},
};

#[tokio::test]
async fn the_gateway_serves_the_dashboard() {
    let setup = setup().await;
    let page = get(setup.admin, "/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("default-src 'none'"));
    let text = page.text();
    assert!(text.contains("All is well.") && text.contains("http://127.0.0.1:"), "{text}");
    let configuration = get(setup.admin, "/view/configuration").await.text();
    assert!(configuration.contains("backend.a"), "{configuration}");
    let description = get(setup.admin, "/openapi.json").await.json();
    assert_eq!(description["openapi"], "3.1.0");
    let list = get(setup.admin, "/backends").await.json();
    let described = &description["components"]["schemas"]["Backend"]["properties"];
    for key in list[0].as_object().unwrap().keys() {
        assert!(described.get(key).is_some(), "{key} is not described");
    }
}

#[tokio::test]
async fn the_headline_says_who_is_set_apart() {
    let setup = setup().await;
    let headline = async || {
        let page = get(setup.admin, "/").await.text();
        let (_, rest) = page.split_once("<p class=\"verdict\">").expect("a headline");
        rest.split_once("</p>").unwrap().0.to_owned()
    };
    let set = async |id: &str, body: &str| {
        let path = format!("/backends/{id}");
        let answer = client::send(setup.admin, Method::PATCH, &path, &[], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    };
    assert_eq!(headline().await, "All is well.");
    set("a", "{\"mode\":\"disabled\"}").await;
    assert_eq!(headline().await, "All is well; a is disabled.");
    let page = get(setup.admin, "/").await.text();
    assert!(page.contains("2 backends; new sessions go to 1 of them."), "{page}");
    set("a", "{\"mode\":\"draining\",\"deadline\":\"1h\"}").await;
    assert_eq!(headline().await, "All is well; a is draining.");
    set("a", "{\"mode\":\"draining\",\"deadline\":\"0s\"}").await;
    assert_eq!(headline().await, "All is well; a is drained.");
    set("b", "{\"mode\":\"disabled\"}").await;
    assert_eq!(headline().await, "Something needs you.");
    let page = get(setup.admin, "/").await.text();
    assert!(page.contains("No backend takes new sessions"), "{page}");
    assert!(page.contains("By the operator's wish: b is disabled, a is drained."), "{page}");
    set("a", "{\"mode\":\"active\"}").await;
    assert_eq!(headline().await, "All is well; b is disabled.");
}

#[tokio::test]
async fn a_move_and_a_token_are_explained_by_the_gateway() {
    let setup = setup().await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/").await.backend();
    let cookie = format!("SERVER_ID={}", client.jar["SERVER_ID"]);
    let explain = async || {
        let body = json!({ "cookie": cookie }).to_string();
        client::send(setup.admin, Method::POST, "/explain", &[], &body).await.json()
    };
    let answer = explain().await;
    assert_eq!(answer["now"]["outcome"], "pinned", "{answer}");
    assert_eq!(answer["now"]["backend"], home);
    assert_eq!(answer["findings"][0]["key"], 0);
    assert!(!answer.to_string().contains(&client.jar["SERVER_ID"]), "it has no usable token");
    let path = format!("/backends/{home}");
    client::send(setup.admin, Method::PATCH, &path, &[], "{\"mode\":\"disabled\"}").await;
    let answer = explain().await;
    assert_eq!(answer["now"]["outcome"], "moved", "{answer}");
    assert_eq!(answer["now"]["reason"], "disabled");
    assert_eq!(get(setup.admin, "/moves").await.json(), json!([]), "nothing has moved yet");
    client.get("/").await;
    let moves = get(setup.admin, "/moves").await.json();
    assert_eq!(moves[0]["from"], home, "{moves}");
    assert_eq!(moves[0]["session"], answer["findings"][0]["session"]);
    for wrong in ["{}", "{\"cookie\":\"\"}", "{\"cookie\":1}", "{\"colour\":\"red\"}"] {
        let answer = client::send(setup.admin, Method::POST, "/explain", &[], wrong).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn the_command_line_explains_a_token() {
    let backend = echo("a").await;
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[[affinity]]\ntype = \"cookie\"\nname = \"sid\"\n\
         keys = [\"base64:{KEY}\"]\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend.url()
    );
    let gateway = Gateway::configured(&text.replace("listen = \"127.0.0.1:0\"\n", "")).await;
    let mut client = Client::new(gateway.addr);
    client.get("/").await;
    let cookie = format!("sid={}", client.jar["sid"]);
    let file = ConfigFile::new(&text);
    let config = file.path().to_str().unwrap();
    let output = run(&["--config", config, "--explain", &cookie], &[]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("now: pinned a"), "{said}");
    assert!(!said.contains(&client.jar["sid"]), "it has no usable token");
    let output = run(&["--config", config, "--explain", "nonsense"], &[]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
