//! Backends over TLS, by the keys of the file.

use http::{Method, StatusCode};

use crate::{
    client::{self, get},
    files::Files,
    process::{ConfigFile, Gateway, run},
    tls_backends::{Authority, Server, config, reply, says_how},
};

fn backend(id: &str, server: &Server, keys: &str) -> String {
    format!("[[backend]]\nid = \"{id}\"\nurl = \"{}\"\n{keys}\n", server.url())
}

#[tokio::test]
async fn a_backend_is_verified_and_shown_the_certificate_of_the_gateway() {
    let (authority, files) = (Authority::unique(), Files::new());
    let identity = authority.server(&["app.internal"]);
    let server = config(&identity, &["h2", "http/1.1"], Some(&authority));
    let server = Server::start(server, says_how).await;
    let (ca, me) = (files.write("ca.pem", &authority.pem()), authority.client());
    let (cert, key) = (files.write("me.pem", &me.cert), files.write("me.key", &me.key));
    let text = format!(
        "[upstream]\nca = [\"{ca}\"]\nclient_cert = \"{cert}\"\nclient_key = \"{key}\"\n\
         server_name = \"app.internal\"\nhttp2 = \"auto\"\n{}",
        backend("a", &server, "")
    );
    let gateway = Gateway::configured(&text).await;
    for _ in 0..3 {
        let answer = get(gateway.addr, "/a").await;
        assert_eq!(answer.text(), format!("HTTP/2.0 https {} /a", gateway.addr));
    }
    assert_eq!(server.seen()[0].sni.as_deref(), Some("app.internal"));
}

#[tokio::test]
async fn each_key_may_stand_in_a_backend() {
    let (first, second, files) = (Authority::unique(), Authority::unique(), Files::new());
    let a =
        Server::start(config(&first.server(&["127.0.0.1"]), &[], None), |_| async { reply("a") });
    let b = config(&second.server(&["b.internal"]), &["h2"], None);
    let (a, b) = (a.await, Server::start(b, |_| async { reply("b") }).await);
    let (ca, other) = (files.write("a.pem", &first.pem()), files.write("b.pem", &second.pem()));
    let own = format!("ca = [\"{other}\"]\nserver_name = \"b.internal\"\nhttp2 = \"on\"");
    let text = format!(
        "[strategy]\ntype = \"round-robin\"\n[upstream]\nca = [\"{ca}\"]\n{}{}",
        backend("a", &a, ""),
        backend("b", &b, &own)
    );
    let gateway = Gateway::configured(&text).await;
    let mut answers = [get(gateway.addr, "/").await.text(), get(gateway.addr, "/").await.text()];
    answers.sort();
    assert_eq!(answers, ["a", "b"]);
}

#[tokio::test]
async fn a_backend_that_is_not_verified_is_shown_and_a_new_one_gets_the_same_settings() {
    let server = config(&Authority::unique().server(&["a.test"]), &[], None);
    let server = Server::start(server, says_how).await;
    let text = format!(
        "admin = \"127.0.0.1:0\"\n[upstream]\nverify = false\n{}",
        backend("a", &server, "")
    );
    let mut gateway = Gateway::configured(&text).await;
    gateway.stderr_line("not verified: insecure").await;
    let admin = gateway.admin_addr().await;
    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::OK);
    let list = get(admin, "/backends").await.json();
    assert_eq!(list[0]["insecure"], true);

    let body = format!("{{\"url\":\"{}\"}}", server.url());
    let added = client::send(admin, Method::PUT, "/backends/b", &[], &body).await;
    assert_eq!((added.status, &added.json()["insecure"]), (StatusCode::CREATED, &true.into()));
    let removed = client::send(admin, Method::DELETE, "/backends/a", &[], "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::OK, "b is used");

    let plain = "{\"url\":\"http://127.0.0.1:1\"}";
    let replaced = client::send(admin, Method::PUT, "/backends/b", &[], plain).await;
    assert!(replaced.json().get("insecure").is_none(), "{}", replaced.text());
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_named_in_the_log() {
    let (authority, files) = (Authority::unique(), Files::new());
    let server = Server::start(config(&authority.valid(-9, -3), &[], None), says_how).await;
    let ca = files.write("ca.pem", &authority.pem());
    let text = format!("[upstream]\nca = [\"{ca}\"]\n{}", backend("a", &server, ""));
    let mut gateway = Gateway::configured(&text).await;
    let answer = get(gateway.addr, "/").await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    gateway.stderr_line("certificate expired 3 days ago").await;
}

#[tokio::test]
async fn wrong_keys_and_files_are_refused_by_their_names() {
    let (authority, files) = (Authority::unique(), Files::new());
    let (me, other) = (authority.client(), authority.client());
    let (cert, key) = (files.write("me.pem", &me.cert), files.write("me.key", &me.key));
    let other = files.write("other.key", &other.key);
    let pair = |cert: &str, key: &str| format!("client_cert = \"{cert}\"\nclient_key = \"{key}\"");
    let cases = [
        ("ca = [\"system\", \"/no/such.pem\"]".into(), vec!["ca[1]", "/no/such.pem"]),
        (format!("ca = [\"{key}\"]"), vec!["ca[0]", "no certificate"]),
        ("ca = []".into(), vec!["ca = []", "system"]),
        (pair("/no/such.pem", &key), vec!["client_cert", "/no/such.pem"]),
        (pair(&cert, "/no/such.key"), vec!["client_key", "/no/such.key"]),
        (pair(&cert, &other), vec!["client_cert", "client_key", "does not belong"]),
        (pair(&cert, &cert), vec!["client_key", "no private key"]),
        (format!("client_cert = \"{cert}\""), vec!["client_cert", "needs client_key"]),
        (format!("client_key = \"{key}\""), vec!["client_key", "needs client_cert"]),
        ("server_name = \"a b\"".into(), vec!["server_name", "a b"]),
        ("handshake_timeout = \"0s\"".into(), vec!["handshake_timeout"]),
    ];
    let backend = "[[backend]]\nid = \"a\"\nurl = \"https://127.0.0.1:1\"\n";
    for (keys, expected) in cases {
        for (section, text) in [
            ("upstream", format!("[upstream]\n{keys}\n{backend}")),
            ("backend[0]", format!("{backend}{keys}")),
        ] {
            let file = ConfigFile::new(&text);
            let path = file.path().to_str().unwrap();
            for args in [&["--check", "--config", path][..], &["--config", path]] {
                let output = run(args, &[]).await;
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{text}: {stderr}");
                for part in expected.iter().chain([&section]) {
                    assert!(stderr.contains(part), "{part:?} is missing in {stderr}");
                }
                assert!(!stderr.contains("PRIVATE KEY-----\nM"), "no key is repeated: {stderr}");
            }
        }
    }
}

#[tokio::test]
async fn a_system_without_root_certificates_needs_a_file_of_them() {
    let files = Files::new();
    let none = files.write("none.pem", "");
    let env = [("SSL_CERT_FILE", none.as_str()), ("SSL_CERT_DIR", "/no/such/directory")];
    let output = run(&["--check", "--backend", "a=https://a.test"], &env).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("--backend a: url") && stderr.contains("root certificates"),
        "{stderr}"
    );

    let ca = files.write("ca.pem", &Authority::unique().pem());
    let text =
        format!("[upstream]\nca = [\"{ca}\"]\n[[backend]]\nid = \"a\"\nurl = \"https://a.test\"");
    let file = ConfigFile::new(&text);
    let output = run(&["--check", "--config", file.path().to_str().unwrap()], &env).await;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}
