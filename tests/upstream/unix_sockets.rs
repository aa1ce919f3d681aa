//! Backends on Unix sockets.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
};
use tower_sticky::{NotSent, Shortage, State, Verdict, proxy::Upstream};

use crate::{redial, support::*, upgrade};

/// A path for a socket, in a directory that is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, SeqCst);
        let name = format!("sticky-unix-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Self(dir.join("app.sock"))
    }

    fn upstream(&self) -> Upstream {
        Upstream::unix(&self.0).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

/// A backend, which ends with all its connections when it is dropped.
struct App(JoinHandle<()>);

impl App {
    /// `connection` gets each socket.
    fn start<F, Fut>(path: &Path, connection: F) -> Self
    where
        F: Fn(UnixStream) -> Fut + Send + 'static,
        Fut: Future<Output = io::Result<()>> + Send + 'static,
    {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        Self(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(connection(socket));
            }
        }))
    }

    /// Answers with the head of each request.
    fn mirror(path: &Path) -> Self {
        Self::start(path, |mut socket| async move {
            while let Some(head) = read_head(&mut socket).await? {
                let length = head.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{head}");
                socket.write_all(answer.as_bytes()).await?;
            }
            Ok(())
        })
    }

    /// Answers "ok".
    fn well(path: &Path) -> Self {
        Self::start(path, |mut socket| async move {
            while read_head(&mut socket).await?.is_some() {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            }
            Ok(())
        })
    }

    async fn stop(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn requests_keep_their_host() {
    let place = Place::new();
    let _app = App::mirror(&place.0);
    let upstream = place.upstream();
    let said = text(send(&upstream, get("/a?b")).await.unwrap()).await;
    assert!(said.starts_with("GET /a?b HTTP/1.1\r\n") && said.contains("host: shop\r\n"), "{said}");
    let without = Request::get("/").body(Empty::<Bytes>::new()).unwrap();
    let said = text(send(&upstream, without).await.unwrap()).await;
    assert!(said.contains("host: localhost\r\n"), "{said}");

    let url = format!("unix:{}|/base", place.0.display());
    let upstream = Upstream::new(&url).unwrap();
    let said = text(send(&upstream, get("/a?b")).await.unwrap()).await;
    assert!(said.starts_with("GET /base/a?b HTTP/1.1\r\n"), "{said}");
}

#[tokio::test]
async fn a_connection_is_kept() {
    let place = Place::new();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = accepted.clone();
    let _app = App::start(&place.0, move |mut socket| {
        count.fetch_add(1, SeqCst);
        async move {
            while read_head(&mut socket).await?.is_some() {
                socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
            }
            Ok(())
        }
    });
    let upstream = place.upstream();
    for _ in 0..5 {
        assert_eq!(send(&upstream, get("/")).await.unwrap().status(), 204);
    }
    assert_eq!(accepted.load(SeqCst), 1);
}

#[tokio::test]
async fn http2_and_large_bodies_pass() {
    let place = Place::new();
    let _app = App::start(&place.0, |socket| async move {
        let echo = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(body)))
        });
        let executor = hyper_util::rt::TokioExecutor::new();
        let server = hyper_util::server::conn::auto::Builder::new(executor);
        let _ = server.serve_connection(hyper_util::rt::TokioIo::new(socket), echo).await;
        Ok(())
    });
    let sent = Bytes::from(vec![7; 8 << 20]);
    for http2 in [false, true] {
        let request = Request::post("/").header("host", "a").body(Full::new(sent.clone())).unwrap();
        let response = send(&place.upstream().http2(http2), request).await.unwrap();
        assert!(response.into_body().collect().await.unwrap().to_bytes() == sent);
    }
}

#[tokio::test]
async fn a_missing_and_a_refusing_socket_are_refused_connections() {
    let place = Place::new();
    for missing in [true, false] {
        if !missing {
            drop(UnixListener::bind(&place.0).unwrap());
        }
        let request = Request::post("/").header("host", "a").body(stream(&["x"])).unwrap();
        let error = send(&place.upstream(), request).await.unwrap_err();
        assert!(error.to_string().contains("app.sock"), "{error}");
        let error = error.downcast::<NotSent<Request<Channel>>>().unwrap();
        assert!(!error.into_parts().0.unwrap().body().polled);
    }
}

#[tokio::test]
async fn a_backend_that_restarts_is_found_by_redialing() {
    let place = Place::new();
    let app = App::well(&place.0);
    let other = redial::well().await;
    let pool = [("a", place.upstream()), ("b", other.upstream())];
    let (backends, service) = redial::pool(pool);
    assert_eq!(redial::ask(&service, "a").await.1, Verdict::Pinned);
    app.stop().await;
    assert_eq!(redial::ask(&service, "a").await, (200, Verdict::Moved, Some("b".into())));
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    let _app = App::well(&place.0);
    redial::becomes(&backends, "a", State::Ready).await;
    assert_eq!(redial::ask(&service, "a").await.1, Verdict::Pinned);
}

#[tokio::test]
async fn an_upgrade_runs_over_a_unix_socket() {
    let place = Place::new();
    let _app = App::start(&place.0, |mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(upgrade::YES.as_bytes()).await?;
        echo_in_capitals(&mut socket).await
    });
    let (proxy, _holds) = upgrade::proxy(place.upstream()).await;
    let (mut client, head) = upgrade::client(&proxy, upgrade::ASK).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    upgrade::ping(&mut client).await;
}

/// A socket whose backlog is full, with the connections that fill it.
async fn full(path: &Path) -> (UnixListener, Vec<std::os::unix::net::UnixStream>) {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut waiting = Vec::new();
    loop {
        let client =
            socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        match client.connect(&socket2::SockAddr::unix(path).unwrap()) {
            Ok(()) => waiting.push(client.into()),
            Err(_) => return (UnixListener::from_std(socket.into()).unwrap(), waiting),
        }
    }
}

#[tokio::test]
async fn a_full_backlog_is_waited_for_and_is_no_failure_of_the_backend() {
    let place = Place::new();
    let (listener, waiting) = full(&place.0).await;
    let other = redial::well().await;
    let limit = Duration::from_millis(100);
    let a = place.upstream().connect_timeout(limit);
    let error = send(&a, get("/")).await.unwrap_err();
    assert!(error.to_string().contains("backlog"), "{error}");
    let (backends, service) = redial::pool([("a", a), ("b", other.upstream())]);
    assert_eq!(redial::ask(&service, "a").await.0, 503);
    assert_eq!(backends.get("a").unwrap().state, State::Ready, "{}", Shortage::Backlog);

    let patient = place.upstream().connect_timeout(Duration::from_secs(60));
    let request = tokio::spawn(async move { send(&patient, get("/")).await.unwrap().status() });
    settle().await;
    assert!(!request.is_finished());
    for _ in 0..waiting.len() {
        drop(listener.accept().await.unwrap());
    }
    let (mut socket, _) = listener.accept().await.unwrap();
    read_head(&mut socket).await.unwrap();
    socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(request.await.unwrap(), 204);
}
