//! Certificates that change while the server runs.

use std::time::Duration;

use tower_sticky::serve::{ClientAuth, ServerHandle, ServerTls};

use super::support::{Client, ClientOptions, is_resumed, shown, start, tls};
use crate::{
    authority::Authority,
    files::Files,
    support::{GET, exchange},
};

/// Makes a request on a new connection, so that the client has received its tickets. Whether it was resumed.
async fn request(client: &Client, server: &ServerHandle) -> bool {
    let mut stream = client.connect(server, "a.test").await.unwrap();
    exchange(&mut stream, GET).await;
    is_resumed(&stream)
}

static TLS12: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS12];
static TLS13: [&rustls::SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

fn versions() -> [ClientOptions<'static>; 2] {
    [&TLS12, &TLS13].map(|versions| ClientOptions { versions, ..Default::default() })
}

#[tokio::test]
async fn sessions_go_on_when_the_certificate_is_renewed() {
    let authority = Authority::new("ca");
    let files = Files::new();
    let (old, new) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    let (cert, key) = files.identity(&old);
    let tls = ServerTls::builder().certificate_files(cert, key).unwrap().build().unwrap();
    let server = start(tls.clone()).await;
    let clients = versions().map(|options| Client::with(&authority, &options));
    for client in &clients {
        assert!(!request(client, &server).await);
        assert!(request(client, &server).await, "the session is resumed");
    }
    files.identity(&new);
    assert!(tls.reload().unwrap());
    assert!(!tls.reload().unwrap(), "nothing has changed since");
    for client in &clients {
        assert!(request(client, &server).await, "the session goes on");
    }
    let stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    assert_eq!(shown(&stream), new.der(), "a new session sees the new certificate");
}

#[tokio::test]
async fn a_pair_that_does_not_fit_keeps_the_old_one() {
    let authority = Authority::new("ca");
    let files = Files::new();
    let (old, new) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    let (cert, key) = files.identity(&old);
    let tls = ServerTls::builder().certificate_files(&cert, &key).unwrap().build().unwrap();
    let server = start(tls.clone()).await;
    files.write("site.pem", &new.cert);
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("does not fit"), "{error}");
    let stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    assert_eq!(shown(&stream), old.der());
    std::fs::remove_file(&key).unwrap();
    assert!(tls.reload().unwrap_err().to_string().contains("cannot be read"));
    files.write("site.key", &new.key);
    assert!(tls.reload().unwrap(), "now they fit");
    let stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    assert_eq!(shown(&stream), new.der());
}

#[tokio::test]
async fn a_running_server_reads_its_certificates_again() {
    let authority = Authority::new("ca");
    let files = Files::new();
    let (old, new) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
    let (cert, key) = files.identity(&old);
    let tls = ServerTls::builder().certificate_files(cert, key).unwrap();
    let server = start(tls.reload_every(Duration::from_millis(20)).build().unwrap()).await;
    files.identity(&new);
    let renewed = async {
        while shown(&Client::new(&authority).connect(&server, "a.test").await.unwrap()) != new.der()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.expect("it is read again");
}

#[tokio::test]
async fn other_client_authorities_forget_all_sessions() {
    let authority = Authority::new("ca");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (alice, bob) = (old.sign(&["alice"]), new.sign(&["bob"]));
    let files = Files::new();
    let ca = files.write("ca.pem", &old.pem());
    let identity = authority.sign(&["a.test"]);
    let tls = tls(&identity).client_ca_file(&ca).unwrap().client_auth(ClientAuth::Require);
    let tls = tls.build().unwrap();
    let server = start(tls.clone()).await;
    for options in versions() {
        files.write("ca.pem", &old.pem());
        tls.reload().unwrap();
        let with = |identity| ClientOptions { identity: Some(identity), ..options_of(&options) };
        let client = Client::with(&authority, &with(&alice));
        assert!(!request(&client, &server).await);
        assert!(request(&client, &server).await, "the session is resumed");
        files.write("ca.pem", &new.pem());
        assert!(tls.reload().unwrap());
        // In TLS 1.3 the client learns of its refusal when it reads.
        let refused = match client.connect(&server, "a.test").await {
            Err(_) => true,
            Ok(mut stream) => {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let _ = stream.write_all(GET.as_bytes()).await;
                !stream.read(&mut [0; 16]).await.is_ok_and(|read| read > 0)
            }
        };
        assert!(refused, "a session of the old authority is not resumed");
        assert!(!request(&Client::with(&authority, &with(&bob)), &server).await);
    }
    files.write("ca.pem", "garbage");
    assert!(tls.reload().is_err());
    let bob = ClientOptions { identity: Some(&bob), ..Default::default() };
    assert!(!request(&Client::with(&authority, &bob), &server).await, "the old ones stay");
}

fn options_of<'a>(options: &ClientOptions<'a>) -> ClientOptions<'a> {
    ClientOptions { versions: options.versions, ..Default::default() }
}

#[tokio::test]
async fn without_tickets_nothing_is_resumed() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let server = start(tls(&identity).tickets(false).build().unwrap()).await;
    for options in versions() {
        let client = Client::with(&authority, &options);
        assert!(!request(&client, &server).await);
        assert!(!request(&client, &server).await);
    }
}
