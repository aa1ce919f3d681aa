//! The configurations in `contrib/` and in the guide: checked, and run.

use std::path::{Path, PathBuf};

use http::StatusCode;

use crate::{
    backends::echo_at,
    client::{Client, get},
    name_server::NameServer,
    process::{ConfigFile, Gateway, run},
};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

fn read(path: &str) -> String {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).unwrap()
}

/// The file in the ConfigMap of `kubernetes.yaml`.
fn mounted() -> String {
    let yaml = read("contrib/kubernetes.yaml");
    let (_, text) = yaml.split_once("gateway.toml: |\n").unwrap();
    let lines = text.lines().map_while(|line| match line.strip_prefix("    ") {
        Some(line) => Some(line),
        None => line.is_empty().then_some(""),
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_of_kubernetes_find_the_pods_and_serve() {
    let (names, key) = (NameServer::start().await, ConfigFile::new(KEY));
    let pod = echo_at("pod", "127.0.0.1:0").await;
    names.addresses("app.default.svc.cluster.local.", 0, &["127.0.0.1"]);
    let mut text = mounted();
    // What differs between a cluster and this machine.
    for (there, here) in [
        ("0.0.0.0:8080", "127.0.0.1:0".to_owned()),
        ("0.0.0.0:9090", "127.0.0.1:0".to_owned()),
        ("/run/secrets/gateway/sticky", key.path().to_str().unwrap().to_owned()),
        ("cluster.local.:8080", format!("cluster.local.:{}", pod.addr.port())),
    ] {
        assert!(text.contains(there), "{there}");
        text = text.replace(there, &here);
    }
    text += &format!("[upstream]\nnameservers = [\"{}\"]\n", names.addr);
    let file = ConfigFile::new(&text);
    let env = [("ADMIN_TOKEN", "secret")];
    let checked = run(&["--check", "--config", file.path().to_str().unwrap()], &env).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let mut gateway = Gateway::configured_with(&text, &env).await;
    let admin = gateway.admin_addr().await;
    let mut client = Client::new(gateway.addr);
    assert_eq!(client.get("/").await.backend(), "pod");
    assert_eq!(client.get("/").await.backend(), "pod");
    let health = get(admin, "/healthz").await;
    assert_eq!(health.status, StatusCode::OK, "the probes have no token");
    assert_eq!(get(admin, "/stats").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_file_of_the_guide_for_systemd_is_good() {
    let guide = read("src/guide/operations.md");
    let (_, toml) = guide.split_once("```toml\n").unwrap();
    let (toml, _) = toml.split_once("```").unwrap();
    let key = ConfigFile::new(KEY);
    let credential = "/run/credentials/gateway.service/sticky";
    assert!(toml.contains(credential) && toml.contains("fd:0"), "{toml}");
    let service = read("contrib/gateway.service");
    assert!(service.contains("LoadCredential=sticky:"), "the key has this name there");
    assert!(read("contrib/gateway.socket").contains("ListenStream="), "this is fd:0");
    let text = toml.replace(credential, key.path().to_str().unwrap());
    let backend = "[[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let file = ConfigFile::new(&format!("{text}\n{backend}"));
    let checked = run(&["--check", "--config", file.path().to_str().unwrap()], &[]).await;
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
