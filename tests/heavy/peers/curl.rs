//! curl as a client over TLS, with HTTP/2 and with a certificate of its own.

use std::collections::BTreeSet;

use tower_sticky_heavy_tests::{certificates::Authority, process::Gateway};

use crate::{
    nginx::Nginx,
    support::{Dir, run, tls_listener},
};

/// What curl prints after the body.
const SUFFIX: &str = " %{http_version} %{http_code}";

struct Setup {
    gateway: Gateway,
    dir: Dir,
    ca: String,
    client: (String, String),
    _backends: [Nginx; 2],
}

/// A gateway with TLS in front of two backends. `tls` and `more` are options of the listener.
async fn setup(tls: &str, more: &str) -> Setup {
    let (authority, dir) = (Authority::new("ours"), Dir::new());
    let server = dir.identity("gateway", &authority.server());
    let client = dir.identity("client", &authority.client());
    let ca = dir.authority(&authority);
    let backends = ["a", "b"].map(|name| {
        let says = format!("{name} $http_x_forwarded_proto $http_x_forwarded_client_cert");
        // This location reads a request to its end before it responds. curl 7.88 hangs when a response over
        // HTTP/2 comes before the end of its upload, from nginx too.
        let upload = "location = /upload { proxy_pass http://127.0.0.1:PORT/; }";
        Nginx::start(&authority, "", &says, upload)
    });
    let entries = backends[0].entry("a", "http") + &backends[1].entry("b", "http");
    let tls = tls_listener(&[server], &tls.replace("CA", &ca));
    let strategy = "[strategy]\ntype = \"round-robin\"\n";
    let gateway = Gateway::listening(&format!("{tls}{more}\n{strategy}{entries}")).await;
    Setup { gateway, dir, ca, client, _backends: backends }
}

impl Setup {
    fn url(&self) -> String {
        format!("https://localhost:{}/", self.gateway.addr.port())
    }

    /// What curl prints, and its exit code.
    async fn curl(&self, args: &[&str]) -> (String, i32) {
        let all = [&["-sS", "-m", "50", "--cacert", &self.ca, "-w", SUFFIX], args].concat();
        let output = run("curl", &all).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (said, output.status.code().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_and_http1_are_chosen_and_cookies_are_secure() {
    let setup = setup("", "").await;
    let url = setup.url();
    for (args, version) in [
        (&["--http2"][..], "2"),
        (&["--http1.1"], "1.1"),
        (&["--http2", "--tlsv1.2", "--tls-max", "1.2"], "2"),
    ] {
        let (said, code) = setup.curl(&[args, &[&url]].concat()).await;
        assert!(said.contains(" https ") && said.ends_with(&format!(" {version} 200")), "{said}");
        assert_eq!(code, 0);
        // The cookie brings each client back to its own backend.
        let jar = setup.dir.file("jar", "");
        let mut first = None;
        for _ in 0..6 {
            let (said, _) = setup.curl(&[args, &["-b", &jar, "-c", &jar, &url]].concat()).await;
            assert_eq!(*first.get_or_insert(said.clone()), said, "the session stays");
        }
        let jar = std::fs::read_to_string(&jar).unwrap();
        let cookie = jar.lines().find(|line| line.contains("SERVER_ID")).unwrap();
        // The fourth field is whether it is only for https.
        assert_eq!(cookie.split('\t').nth(3), Some("TRUE"), "{cookie}");
    }
    let (_, code) =
        setup.curl(&["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", &url]).await;
    assert_eq!(code, 35, "TLS 1.1 is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subject_of_a_client_certificate_reaches_the_backend() {
    let tls = ", client_ca = \"CA\", client_auth = \"require\"";
    let setup = setup(tls, "client_cert_header = true").await;
    let url = setup.url();
    let (cert, key) = &setup.client;
    let forged = "x-forwarded-client-cert: Subject=\"CN=root\"";
    for version in ["--http2", "--http1.1"] {
        let args = [version, "--cert", cert, "--key", key, "-H", forged, &url];
        let (said, code) = setup.curl(&args).await;
        assert_eq!(code, 0);
        assert!(said.contains("Subject=\"CN=a-client\"") && !said.contains("root"), "{said}");
        let (said, code) = setup.curl(&[version, &url]).await;
        assert_ne!(code, 0, "without a certificate there is no response: {said}");
        assert!(said.ends_with("000"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optional_client_certificate_may_be_missing() {
    let tls = ", client_ca = \"CA\", client_auth = \"optional\"";
    let setup = setup(tls, "client_cert_header = true").await;
    let url = setup.url();
    let (cert, key) = &setup.client;
    let (said, _) = setup.curl(&["--cert", cert, "--key", key, &url]).await;
    assert!(said.contains("CN=a-client"), "{said}");
    let forged = "x-forwarded-client-cert: Subject=\"CN=root\"";
    let (said, code) = setup.curl(&["-H", forged, &url]).await;
    assert_eq!(code, 0);
    assert!(!said.contains("CN="), "{said}");
    let (theirs, theirs_dir) = (Authority::new("theirs"), Dir::new());
    let (cert, key) = theirs_dir.identity("client", &theirs.client());
    let (said, code) = setup.curl(&["--cert", &cert, "--key", &key, &url]).await;
    assert_ne!(code, 0, "a certificate of another authority is refused: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_transfers_and_large_uploads_pass() {
    let setup = setup("", "").await;
    let url = format!("{}[1-200]", setup.url());
    let args = ["--http2", "-Z", "--parallel-max", "50", &url];
    let (said, code) = setup.curl(&args).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(said.matches(" 2 200").count(), 200, "{said}");
    let backends: BTreeSet<_> =
        said.split(" 2 200").filter_map(|one| one.trim().chars().next()).collect();
    assert_eq!(backends, BTreeSet::from(['a', 'b']), "without cookies both backends are used");
    let upload = setup.dir.file("upload", vec![b'x'; 5 << 20]);
    for version in ["--http2", "--http1.1"] {
        let data = format!("@{upload}");
        let (said, code) =
            setup.curl(&[version, "--data-binary", &data, &format!("{}upload", setup.url())]).await;
        assert!(code == 0 && said.ends_with("200"), "{version}: {code}, {said}");
    }
}
