//! Which certificate is shown, and which ones are refused.

use tower_sticky::serve::{ClientAuth, ServerTls};

use super::support::{Client, ClientOptions, shown, start, tls};
use crate::{
    authority::Authority,
    files::Files,
    support::{GET, exchange},
};

#[tokio::test]
async fn a_certificate_is_chosen_by_the_server_name() {
    let authority = Authority::new("ca");
    let first = authority.sign(&["first.test"]);
    let exact = authority.sign(&["shop.example.org"]);
    let wild = authority.sign(&["*.example.org", "*.other.org"]);
    let mut builder = tls(&first);
    for other in [&wild, &exact] {
        builder = builder.certificate_pem(&other.cert, &other.key).unwrap();
    }
    let server = start(builder.build().unwrap()).await;
    let client = Client::new(&authority);
    for (name, expected) in [
        ("first.test", &first),
        ("shop.example.org", &exact),
        ("SHOP.example.org", &exact),
        ("a.example.org", &wild),
        ("b.other.org", &wild),
    ] {
        let stream = client.connect(&server, name).await.unwrap();
        assert_eq!(shown(&stream), expected.der(), "{name}");
    }
    // The first certificate is shown for any other name, for which it is not valid.
    for name in ["a.b.example.org", "example.org", "unknown.test"] {
        let error = client.connect(&server, name).await.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{name}: {error}");
    }
}

#[tokio::test]
async fn strict_names_refuse_all_others() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let server = start(tls(&identity).strict_sni(true).build().unwrap()).await;
    let client = Client::new(&authority);
    let mut stream = client.connect(&server, "a.test").await.unwrap();
    assert!(exchange(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
    let error = client.connect(&server, "b.test").await.unwrap_err().to_string();
    assert!(error.contains("alert"), "{error}");
    let silent = Client::with(&authority, &ClientOptions { sni: false, ..Default::default() });
    let error = silent.connect(&server, "a.test").await.unwrap_err().to_string();
    assert!(error.contains("alert"), "without a name: {error}");
    assert_eq!(server.handshake_errors(), 2);
}

#[test]
fn bad_certificates_are_refused_with_a_reason() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.sign(&["a.test"]), authority.sign(&["b.test"]));
    let files = Files::new();
    let cert = files.write("site.pem", &one.cert);
    let wrong_key = files.write("other.key", &other.key);
    let garbage = files.write("garbage.pem", "garbage");
    let missing = files.write("gone", "");
    std::fs::remove_file(&missing).unwrap();
    for (cert, key, expected) in [
        (&cert, &wrong_key, ["other.key", "does not fit the certificate", "site.pem"]),
        (&cert, &missing, ["key file", "gone", "cannot be read"]),
        (&missing, &wrong_key, ["certificate file", "gone", "cannot be read"]),
        (&garbage, &wrong_key, ["garbage.pem", "no certificate", "BEGIN CERTIFICATE"]),
        (&cert, &garbage, ["garbage.pem", "no private key", "BEGIN PRIVATE KEY"]),
    ] {
        let error = ServerTls::builder().certificate_files(cert, key).unwrap_err().to_string();
        assert!(expected.iter().all(|text| error.contains(text)), "{error}");
        assert!(!error.contains("MII"), "no key is repeated: {error}");
    }
    let error = ServerTls::builder().client_ca_file(&garbage).unwrap_err().to_string();
    assert!(error.contains("client authorities") && error.contains("garbage.pem"), "{error}");
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let ca = authority.pem();
    for (builder, expected) in [
        (ServerTls::builder(), "no certificate"),
        (tls(&identity).alpn(["h3"]), "\"h3\" is not known"),
        (tls(&identity).client_auth(ClientAuth::Require), "no authority"),
        (tls(&identity).client_ca_pem(&ca).unwrap(), "not asked for one"),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
