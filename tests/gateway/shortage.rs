//! A shortage of file descriptors: no backend is suspect, no session moves, and clients get a response.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{self, Client, get, read_head},
    process::{FOREVER, Gateway},
};

const FILES: u32 = 64;

fn config(backends: &[(&str, &Backend)], more: &str) -> String {
    let mut config = format!(
        "admin = \"127.0.0.1:0\"\nserver_timing = true\n{more}\n\
         [[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n"
    );
    for (id, backend) in backends {
        config += &format!("[[backend]]\nid = \"{id}\"\nurl = \"{}\"\n", backend.url());
    }
    config
}

/// Idle connections, as many as it takes until the gateway reports a shortage.
async fn take_all_files(gateway: &mut Gateway) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..FILES {
        idle.push(TcpStream::connect(gateway.addr).await.unwrap());
    }
    let line = gateway.stderr_line("cannot accept connections").await;
    assert!(line.contains("no file descriptor left"), "{line}");
    idle
}

/// One request on an open connection.
async fn ask(stream: &mut TcpStream, cookie: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: SERVER_ID={cookie}\r\n\r\n");
    exchange(stream, &request).await.0
}

/// The head and the body of the response to a request.
async fn exchange(stream: &mut TcpStream, request: &str) -> (String, Vec<u8>) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(stream).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    (head, body)
}

#[tokio::test]
async fn without_descriptors_no_backend_is_suspect_and_no_session_moves() {
    let (a, b) = (echo("a").await, echo("b").await);
    let backends = [("a", &a), ("b", &b)];
    let mut gateway = Gateway::with_files(FILES, &config(&backends, "")).await;
    let limit = gateway.stderr_line("file descriptors").await;
    assert!(limit.contains("limits.connections = 10000"), "{limit}");
    let admin = gateway.admin_addr().await;
    let mut stats = TcpStream::connect(admin).await.unwrap();
    // Once it is answered, the connection is accepted.
    let request = "GET /backends HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    assert!(!exchange(&mut stats, request).await.1.is_empty());
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    assert!(ask(&mut client, "a").await.contains("pinned a"));
    let mut idle = take_all_files(&mut gateway).await.into_iter();

    // The idle connection to its backend still serves it.
    assert!(ask(&mut client, "a").await.contains("pinned a"));
    // Another one has room once an idle one is closed, unless a client takes the descriptor.
    let mut second = idle.next().unwrap();
    for _ in 0..3 {
        let (first, second) = tokio::join!(ask(&mut client, "a"), ask(&mut second, "b"));
        for (head, own) in [(&first, "pinned a"), (&second, "pinned b")] {
            let served = head.starts_with("HTTP/1.1 200") && head.contains(own);
            let short = head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 1");
            assert!(served || short, "{head}");
        }
    }
    let (_, body) = exchange(&mut stats, request).await;
    let backends: serde_json::Value = serde_json::from_slice(&body).unwrap();
    for backend in backends.as_array().unwrap() {
        assert_eq!(backend["state"], "ready", "{backends}");
    }
    drop((client, stats, second, idle));
    let mut visitor = Client::new(gateway.addr);
    visitor.jar.insert("SERVER_ID".into(), "a".into());
    let served = async {
        loop {
            let answer = visitor.get("/").await;
            if answer.status == StatusCode::OK {
                assert!(answer.header("server-timing").contains("pinned a"));
                return;
            }
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        }
    };
    timeout(FOREVER, served).await.expect("all is well when there are descriptors again");
    let stats = get(admin, "/stats").await.json();
    assert_eq!((stats["moves"].as_u64(), stats["violations"].as_u64()), (Some(0), Some(0)));
}

#[tokio::test]
async fn clients_that_cannot_be_accepted_get_503_and_are_served_later() {
    let a = echo("a").await;
    let mut gateway = Gateway::with_files(FILES, &config(&[("a", &a)], "")).await;
    let idle = take_all_files(&mut gateway).await;
    let answer = get(gateway.addr, "/").await;
    let why = (answer.status, answer.header("retry-after"));
    assert_eq!(why, (StatusCode::SERVICE_UNAVAILABLE, "1"));
    drop(idle);
    let served = async {
        while get(gateway.addr, "/").await.status != StatusCode::OK {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(FOREVER, served).await.expect("it accepts again");
    let answer = client::send(gateway.addr, Method::POST, "/", &[], "body").await;
    assert_eq!(answer.json()["body"], "body");
}

#[tokio::test]
async fn a_sufficient_descriptor_limit_causes_no_warning() {
    let a = echo("a").await;
    let more = "[limits]\nconnections = 16";
    let mut gateway = Gateway::with_files(256, &config(&[("a", &a)], more)).await;
    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::OK);
    gateway.signal("TERM").await;
    let stderr = gateway.rest_of_stderr().await;
    assert!(!stderr.contains("descriptor"), "{stderr}");
}
