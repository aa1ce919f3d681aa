//! Versions, protocols, client certificates, and the limits of handshakes.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower_sticky::serve::{ClientAuth, Limits, ProxyProtocol, ServerTls, TlsVersion};

use super::support::{Client, ClientOptions, start, tls};
use crate::{
    authority::{Authority, Identity},
    support::{GET, addr, any_port, exchange, is_closed, server},
};

fn authority() -> (Authority, Identity) {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    (authority, identity)
}

#[tokio::test]
async fn the_version_is_at_least_the_configured_one() {
    let (authority, identity) = authority();
    let old = ClientOptions { versions: &[&rustls::version::TLS12], ..Default::default() };
    let (old, new) = (Client::with(&authority, &old), Client::new(&authority));
    let server = start(tls(&identity).build().unwrap()).await;
    for client in [&old, &new] {
        let mut stream = client.connect(&server, "a.test").await.unwrap();
        assert!(exchange(&mut stream, GET).await.contains("https=true"));
    }
    let server = start(tls(&identity).min_version(TlsVersion::Tls13).build().unwrap()).await;
    assert!(old.connect(&server, "a.test").await.is_err());
    assert!(new.connect(&server, "a.test").await.is_ok());
}

#[tokio::test]
async fn the_protocol_is_the_one_that_alpn_has_chosen() {
    let (authority, identity) = authority();
    let server = start(tls(&identity).build().unwrap()).await;
    for (alpn, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&[], None),
    ] {
        let client = Client::with(&authority, &ClientOptions { alpn, ..Default::default() });
        let mut stream = client.connect(&server, "a.test").await.unwrap();
        let got = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(got.as_deref(), chosen.map(str::as_bytes), "{alpn:?}");
        if chosen != Some("h2") {
            assert!(exchange(&mut stream, GET).await.contains("version=HTTP/1.1"));
        }
    }
    let other = ClientOptions { alpn: &["spdy/3"], ..Default::default() };
    assert!(Client::with(&authority, &other).connect(&server, "a.test").await.is_err());
    let server = start(tls(&identity).alpn(["http/1.1"]).build().unwrap()).await;
    let both = ClientOptions { alpn: &["h2", "http/1.1"], ..Default::default() };
    let stream = Client::with(&authority, &both).connect(&server, "a.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

/// With these options, what a client gets that shows this certificate; `None` is a failed handshake.
async fn answer(
    auth: ClientAuth,
    with_header: bool,
    identity: Option<&Identity>,
    (authority, server_identity): &(Authority, Identity),
) -> Option<String> {
    let mut builder = tls(server_identity).client_auth(auth);
    if auth != ClientAuth::Off {
        builder = builder.client_ca_pem(authority.pem()).unwrap();
    }
    let listener = any_port().await.tls(builder.build().unwrap()).client_cert_header(with_header);
    let server = server(listener).start().unwrap();
    let client = Client::with(authority, &ClientOptions { identity, ..Default::default() });
    let mut stream = client.connect(&server, "a.test").await.ok()?;
    let request = "GET / HTTP/1.1\r\nhost: a.test\r\nx-forwarded-client-cert: Subject=\"CN=root\"\r\n\
                   x-forwarded_client_cert: Subject=\"CN=root\"\r\n\r\n";
    // In TLS 1.3 the client learns of its refusal when it reads.
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut first = [0; 1];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.ok()?;
    Some(crate::support::response(&mut stream).await)
}

#[tokio::test]
async fn client_certificates_are_off_optional_or_required() {
    let ours = authority();
    let theirs = Authority::new("theirs");
    let (known, unknown) = (ours.0.sign(&["alice"]), theirs.sign(&["mallory"]));
    for (auth, none, with_known, with_unknown) in [
        (ClientAuth::Off, true, true, true),
        (ClientAuth::Optional, true, true, false),
        (ClientAuth::Require, false, true, false),
    ] {
        for (identity, served) in
            [(None, none), (Some(&known), with_known), (Some(&unknown), with_unknown)]
        {
            let answer = answer(auth, false, identity, &ours).await;
            assert_eq!(answer.is_some(), served, "{auth:?}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn the_subject_of_a_client_certificate_is_told_and_copies_are_removed() {
    let ours = authority();
    let known = ours.0.sign(&["alice"]);
    let told = answer(ClientAuth::Require, true, Some(&known), &ours).await.unwrap();
    assert!(told.contains("\nx-forwarded-client-cert: Subject=\"CN=alice,O=Shop\"\n"), "{told}");
    assert!(!told.contains("CN=root"), "{told}");
    for auth in [ClientAuth::Optional, ClientAuth::Off] {
        let told = answer(auth, true, None, &ours).await.unwrap();
        assert!(!told.contains("client-cert") && !told.contains("client_cert"), "{told}");
    }
    let told = answer(ClientAuth::Require, false, Some(&known), &ours).await.unwrap();
    assert!(told.contains("CN=root") && !told.contains("alice"), "without the option: {told}");
}

/// The beginning of a handshake: a whole ClientHello, and nothing after it.
fn client_hello(authority: &Authority) -> Vec<u8> {
    let config = authority.client_config(rustls::ALL_VERSIONS).with_no_client_auth();
    let mut connection =
        rustls::ClientConnection::new(config.into(), "a.test".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

fn quick(identity: &Identity, timeout: Duration) -> ServerTls {
    tls(identity).handshake_timeout(timeout).build().unwrap()
}

#[tokio::test]
async fn handshakes_are_bounded_in_time() {
    let (authority, identity) = authority();
    let server = start(quick(&identity, Duration::from_millis(100))).await;
    let hello = client_hello(&authority);
    for begin in [&hello[..0], &hello[..3], &hello[..hello.len() - 1], &hello] {
        let mut client = TcpStream::connect(addr(&server)).await.unwrap();
        client.write_all(begin).await.unwrap();
        // After the whole hello the server answers before it gives up.
        while !is_closed(&mut client).await {}
    }
    assert_eq!(server.handshake_errors(), 4);
    let mut plain = TcpStream::connect(addr(&server)).await.unwrap();
    plain.write_all(GET.as_bytes()).await.unwrap();
    while !is_closed(&mut plain).await {}
    assert_eq!(server.handshake_errors(), 5, "clear text is not TLS");
    let mut check = TcpStream::connect(addr(&server)).await.unwrap();
    check.shutdown().await.unwrap();
    assert!(is_closed(&mut check).await);
    assert_eq!(server.handshake_errors(), 5, "a health check that sends nothing is no error");
    assert_eq!(server.open_connections(), 0);
    assert!(Client::new(&authority).connect(&server, "a.test").await.is_ok());
}

#[tokio::test]
async fn the_handshake_is_part_of_the_header_timeout() {
    let (_, identity) = authority();
    let limits = Limits::new().header_timeout(Duration::from_millis(100));
    let listener = any_port().await.tls(quick(&identity, Duration::from_secs(60)));
    let server = server(listener).limits(limits).start().unwrap();
    let mut client = TcpStream::connect(addr(&server)).await.unwrap();
    assert!(is_closed(&mut client).await);
}

#[tokio::test]
async fn handshakes_are_bounded_in_number() {
    let (authority, identity) = authority();
    let limits = Limits::new().handshakes(1);
    let listener = any_port().await.tls(quick(&identity, Duration::from_millis(400)));
    let server = server(listener).limits(limits).start().unwrap();
    // These two do not get as far as to count.
    let mut silent = Vec::new();
    for begin in [&b""[..], &[22, 3, 1]] {
        let mut client = TcpStream::connect(addr(&server)).await.unwrap();
        client.write_all(begin).await.unwrap();
        silent.push(client);
    }
    let client = Client::new(&authority);
    let free = tokio::time::Instant::now();
    client.connect(&server, "a.test").await.unwrap();
    assert!(free.elapsed() < Duration::from_millis(300), "it does not wait for silent clients");
    let mut slow = TcpStream::connect(addr(&server)).await.unwrap();
    slow.write_all(&client_hello(&authority)).await.unwrap();
    assert!(!is_closed(&mut slow).await, "the server answers the hello");
    let mut waiting = Box::pin(client.connect(&server, "a.test"));
    let result = tokio::time::timeout(Duration::from_millis(100), &mut waiting).await;
    assert!(result.is_err(), "a handshake waits for the one before it");
    assert!(waiting.await.is_ok(), "it goes on when that one has timed out");
}

#[tokio::test]
async fn the_proxy_protocol_comes_before_tls() {
    let (authority, identity) = authority();
    let listener = any_port().await.tls(tls(&identity).build().unwrap());
    let listener = listener.proxy_protocol(ProxyProtocol::Require);
    let server = server(listener).trusted_proxies(["127.0.0.0/8".parse().unwrap()]);
    let server = server.start().unwrap();
    let client = Client::new(&authority);
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80]);
    for header in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n"[..], &v2] {
        let mut socket = TcpStream::connect(addr(&server)).await.unwrap();
        socket.write_all(header).await.unwrap();
        let mut stream = client.connect_over(socket, "a.test").await.unwrap();
        let answer = exchange(&mut stream, GET).await;
        assert!(answer.contains("peer=192.0.2.7:4660 trusted=false https=true"), "{answer}");
    }
    assert!(client.connect(&server, "a.test").await.is_err(), "everybody must send it");
    assert_eq!((server.proxy_protocol_errors(), server.handshake_errors()), (1, 0));
}
