//! A backend as a process of its own, which can really be killed: `heavy-backend NAME PORT [failing]`.
//!
//! It says where it listens, and then `got N` for each request with a number, as soon as it has its head.
//! Told `close` on its standard input it says goodbye to its WebSockets, and to those that come later;
//! told `drop` it breaks all connections off and closes each new one at once, told `fail` it answers
//! everything with 500, and told `work` it works again; it says when it does. It stops when that input
//! ends. On SIGTERM it finishes what it has begun, and stops.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    convert::Infallible,
    io::BufRead,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// How long the body of `/download` is said to be.
const LENGTH: usize = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    /// WebSockets are to end.
    Closing,
    /// All is to end.
    Stopping,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Working,
    /// It answers everything with 500.
    Failing,
    /// It takes connections and closes them.
    Dropping,
}

#[derive(Clone)]
struct App {
    name: Arc<str>,
    mood: watch::Receiver<Mood>,
    stage: watch::Receiver<Stage>,
    /// Held by all that is not done yet.
    _busy: mpsc::Sender<()>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().expect("a name").into();
    let port: u16 = args.next().expect("a port").parse().expect("a port");
    let mood = if args.next().is_some() { Mood::Failing } else { Mood::Working };
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut term = signal(SignalKind::terminate()).unwrap();
    let (stage, seen) = watch::channel(Stage::Serving);
    let (mood, felt) = watch::channel(mood);
    let (busy, mut idle) = mpsc::channel(1);
    listen_to_parent(stage.clone(), mood);
    println!("listening on {}", listener.local_addr().unwrap());
    let app = App { name, mood: felt, stage: seen, _busy: busy };
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted.unwrap();
                if *app.mood.borrow() == Mood::Dropping {
                    continue;
                }
                socket.set_nodelay(true).unwrap();
                tokio::spawn(serve(app.clone(), socket));
            }
            _ = term.recv() => break,
        }
    }
    drop(listener);
    stage.send_replace(Stage::Stopping);
    drop(app);
    // `None` when the last one is done.
    assert!(idle.recv().await.is_none());
}

fn listen_to_parent(stage: watch::Sender<Stage>, mood: watch::Sender<Mood>) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let new = match &*line {
                "close" => {
                    // It may be stopping already.
                    stage.send_modify(|stage| *stage = Stage::Closing.max(*stage));
                    continue;
                }
                "drop" => Mood::Dropping,
                "fail" => Mood::Failing,
                "work" => Mood::Working,
                _ => break,
            };
            mood.send_replace(new);
            println!("now {line}");
        }
        // Whoever started it is gone.
        std::process::exit(1);
    });
}

async fn reached(stage: &mut watch::Receiver<Stage>, wanted: Stage) {
    let _ = stage.wait_for(|stage| *stage >= wanted).await;
}

async fn dropping(mood: &mut watch::Receiver<Mood>) {
    let _ = mood.wait_for(|mood| *mood == Mood::Dropping).await;
}

async fn serve(app: App, socket: TcpStream) {
    let (mut stage, mut mood) = (app.stage.clone(), app.mood.clone());
    let answer = service_fn(move |request| answer(app.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
    let mut connection = std::pin::pin!(connection.with_upgrades());
    tokio::select! {
        _ = connection.as_mut() => {}
        () = reached(&mut stage, Stage::Stopping) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
        () = dropping(&mut mood) => {}
    }
}

async fn answer(mut app: App, request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap());
    if let Some(number) = text("x-number") {
        println!("got {number}");
    }
    if text("x-hold") == Some(&app.name) {
        std::future::pending::<()>().await;
    }
    if let Some(millis) = text("x-delay") {
        tokio::time::sleep(Duration::from_millis(millis.parse().unwrap())).await;
    }
    let mut response = Response::builder().header("x-server", &*app.name);
    let fails = *app.mood.borrow() == Mood::Failing;
    if !fails && request.headers().contains_key("x-login") {
        let id = new_id();
        response = response
            .header(header::SET_COOKIE, format!("JSESSIONID={id}; Path=/"))
            .header(header::LOCATION, format!("/files/{id}"))
            .status(201);
    }
    let response = match request.uri().path() {
        _ if fails => response.status(500).body(whole(Bytes::new())),
        _ if request.headers().contains_key(header::UPGRADE) => return Ok(upgrade(app, request)),
        "/ticks" => response.body(ticks()),
        "/download" => response.header(header::CONTENT_LENGTH, LENGTH).body(half()),
        "/until-stopped" => {
            reached(&mut app.stage, Stage::Stopping).await;
            response.body(whole(request.into_body().collect().await?.to_bytes()))
        }
        _ => response.body(whole(request.into_body().collect().await?.to_bytes())),
    };
    Ok(response.unwrap())
}

/// The id of a session that no process has had before.
fn new_id() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let (process, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
    let began = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("{process}-{number}-{began}")
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(never).boxed_unsync()
}

/// One tick after the other, for ever.
fn ticks() -> Body {
    let ticks = stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Some((Ok(Frame::data(Bytes::from_static(b"tick\n"))), ()))
    });
    StreamBody::new(ticks).boxed_unsync()
}

/// One half in pieces; the other one never comes.
fn half() -> Body {
    let pieces = stream::unfold(0, |sent| async move {
        if sent == LENGTH / 2 {
            std::future::pending::<()>().await;
        }
        Some((Ok(Frame::data(Bytes::from(vec![b'x'; LENGTH / 20]))), sent + LENGTH / 20))
    });
    StreamBody::new(pieces).boxed_unsync()
}

fn never(never: Infallible) -> hyper::Error {
    match never {}
}

fn upgrade(app: App, request: Request<Incoming>) -> Response<Body> {
    let accept = accept_key(request.headers());
    let stubborn = request.uri().path() == "/stubborn";
    let name = app.name.clone();
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.unwrap();
        let io = TokioIo::new(upgraded);
        talk(app, WebSocketStream::from_raw_socket(io, Role::Server, None).await, stubborn).await;
    });
    let response = Response::builder()
        .status(101)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, accept)
        .header("x-server", &*name)
        .body(whole(Bytes::new()));
    response.unwrap()
}

fn accept_key(headers: &HeaderMap) -> String {
    derive_accept_key(headers[header::SEC_WEBSOCKET_KEY].as_bytes())
}

/// Sends texts back behind the backend's name, until either side has had enough.
async fn talk<IO>(mut app: App, mut socket: WebSocketStream<IO>, stubborn: bool)
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut open = true;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) if open => {
                    let echo = Message::text(format!("{}: {text}", app.name));
                    if socket.send(echo).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = reached(&mut app.stage, Stage::Closing), if open && !stubborn => {
                open = false;
                let goodbye = CloseFrame { code: CloseCode::Restart, reason: "come again".into() };
                if socket.close(Some(goodbye)).await.is_err() {
                    return;
                }
            }
        }
    }
}
