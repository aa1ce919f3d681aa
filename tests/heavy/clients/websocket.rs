//! WebSockets through a gateway: messages arrive both ways, a socket counts as in flight until
//! it is closed, and it reaches the session's backend.

use futures_util::{SinkExt, StreamExt, future::join_all};
use http::{Request, Response, header};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, accept_async, client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tower_sticky::{
    Backends, KeyRing, Mode, StickyLayer, Verdict, affinity::Cookie, proxy::Upstream,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::{
    client::cookie,
    gateway::{Gateway, VERDICT},
    in_time,
    server::Server,
    until,
};

type Socket = WebSocketStream<TcpStream>;

/// A backend whose sockets echo text behind the backend's name and binary as it is, and do what
/// some texts ask for.
fn backend(name: &'static str) -> Server {
    Server::start(move |socket| async move {
        let mut socket = accept_async(socket).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            let answer = match message {
                Message::Text(text) if text == "ping me" => Message::Ping("a ping".into()),
                Message::Text(text) if text == "close me" => Message::Close(Some(CloseFrame {
                    code: CloseCode::Library(4_000),
                    reason: "as you asked".into(),
                })),
                Message::Text(text) => Message::text(format!("{name}: {text}")),
                Message::Pong(payload) if payload.is_empty() => continue,
                Message::Pong(payload) => Message::text(format!("{name}: {payload:?} came back")),
                Message::Binary(bytes) => Message::Binary(bytes),
                // Pings and closes are answered by the library.
                _ => continue,
            };
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    })
}

struct Setup {
    backends: Backends<Upstream>,
    servers: [Server; 2],
    gateway: Gateway,
}

impl Setup {
    async fn new() -> Self {
        let servers = ["a", "b"].map(backend);
        let backends = Backends::new();
        for (id, server) in ["a", "b"].into_iter().zip(&servers) {
            backends.insert(id, server.upstream()).unwrap();
        }
        let cookie = Cookie::sealed("sid", KeyRing::generate().unwrap());
        let layer = StickyLayer::new(backends.clone(), cookie)
            .strategy(RoundRobin::new())
            .outcome_extensions(true);
        let gateway = Gateway::start(layer.into_service()).await;
        Self { backends, servers, gateway }
    }

    /// Opens a socket, with a cookie if there is one.
    async fn open(&self, token: Option<&str>) -> (Socket, Response<Option<Vec<u8>>>) {
        let mut request: Request<()> =
            format!("ws://{}/room", self.gateway.addr).into_client_request().unwrap();
        if let Some(token) = token {
            let cookie = format!("sid={token}").try_into().unwrap();
            request.headers_mut().insert(header::COOKIE, cookie);
        }
        let stream = TcpStream::connect(self.gateway.addr).await.unwrap();
        in_time("the socket opens", client_async(request, stream)).await.unwrap()
    }

    fn in_flight(&self, id: &str) -> usize {
        self.backends.get(id).unwrap().in_flight
    }

    async fn idle(&self) {
        let idle = || self.backends.iter().all(|backend| backend.in_flight == 0);
        until("nothing is in flight", idle).await;
        assert_eq!(self.backends.snapshot().stats.violations(), 0);
    }
}

async fn next(socket: &mut Socket) -> Message {
    in_time("a message comes", socket.next()).await.expect("it is open").unwrap()
}

async fn ask(socket: &mut Socket, text: &str) -> String {
    socket.send(Message::text(text)).await.unwrap();
    next(socket).await.into_text().unwrap().to_string()
}

/// Sends a close frame, and waits for that of the other end.
async fn close(mut socket: Socket) {
    socket.close(None).await.unwrap();
    while in_time("the socket closes", socket.next()).await.is_some_and(|message| message.is_ok()) {
    }
}

#[tokio::test]
async fn messages_of_every_kind_arrive_both_ways() {
    let setup = Setup::new().await;
    let (mut socket, response) = setup.open(None).await;
    assert_eq!(response.status(), 101);
    assert_eq!(ask(&mut socket, "hello").await, "a: hello");
    assert_eq!(ask(&mut socket, "").await, "a: ");
    assert_eq!(ask(&mut socket, "ä € 😀").await, "a: ä € 😀");
    // Lengths around the borders of the frame format and of buffers.
    for length in [0, 125, 126, 65_535, 65_536, 1_000_000] {
        let bytes: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
        socket.send(Message::binary(bytes.clone())).await.unwrap();
        assert!(next(&mut socket).await == Message::binary(bytes), "{length} bytes come back");
    }
    socket.send(Message::Ping("mine".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong("mine".into()));

    // A ping of the backend: the library answers it while the next message is awaited.
    socket.send(Message::text("ping me")).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Ping("a ping".into()));
    assert_eq!(next(&mut socket).await.into_text().unwrap(), "a: b\"a ping\" came back");

    // The backend closes.
    socket.send(Message::text("close me")).await.unwrap();
    let goodbye = CloseFrame { code: CloseCode::Library(4_000), reason: "as you asked".into() };
    assert_eq!(next(&mut socket).await, Message::Close(Some(goodbye)));
    assert!(in_time("it ends", socket.next()).await.is_none(), "a clean end");
    setup.idle().await;

    // The client closes, and the backend says the same.
    let (mut socket, _) = setup.open(None).await;
    let goodbye = CloseFrame { code: CloseCode::Away, reason: "gone".into() };
    socket.close(Some(goodbye.clone())).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Close(Some(goodbye)));
    assert!(in_time("it ends", socket.next()).await.is_none(), "a clean end");
    setup.idle().await;
}

#[tokio::test]
async fn a_socket_is_in_flight_until_it_closes() {
    let setup = Setup::new().await;
    let (mut first, _) = setup.open(None).await;
    let (mut second, response) = setup.open(None).await;
    let token = cookie(&response, "sid").unwrap();
    let (mut third, _) = setup.open(Some(&token)).await;
    for socket in [&mut first, &mut second, &mut third] {
        ask(socket, "hello").await;
    }
    assert_eq!((setup.in_flight("a"), setup.in_flight("b")), (1, 2));
    close(second).await;
    until("one has ended", || setup.in_flight("b") == 1).await;
    // Without a close frame.
    drop(third);
    until("both have ended", || setup.in_flight("b") == 0).await;
    assert_eq!(ask(&mut first, "still here?").await, "a: still here?");
    assert_eq!(setup.in_flight("a"), 1);

    // A backend that is removed keeps its sockets.
    setup.backends.set_mode("a", Mode::Draining).unwrap();
    assert_eq!(ask(&mut first, "and now?").await, "a: and now?");
    setup.backends.remove("a").unwrap();
    assert_eq!(ask(&mut first, "and now?").await, "a: and now?");
    close(first).await;
    setup.idle().await;
}

#[tokio::test]
async fn the_cookie_pins_the_handshake() {
    let setup = Setup::new().await;
    for (name, other) in [("a", "b"), ("b", "a")] {
        let (mut socket, response) = setup.open(None).await;
        assert_eq!(response.headers()[VERDICT], "assigned");
        let token = cookie(&response, "sid").expect("the 101 carries the cookie");
        assert_eq!(ask(&mut socket, "").await, format!("{name}: "));
        close(socket).await;
        for _ in 0..10 {
            let (mut socket, response) = setup.open(Some(&token)).await;
            assert_eq!(response.headers()[VERDICT], "pinned");
            assert_eq!(cookie(&response, "sid"), None, "nothing changed, nothing is sent");
            assert_eq!(ask(&mut socket, "").await, format!("{name}: "));
            close(socket).await;
        }
        setup.backends.set_mode(name, Mode::Disabled).unwrap();
        let (mut socket, response) = setup.open(Some(&token)).await;
        assert_eq!(response.headers()[VERDICT], "moved");
        assert!(cookie(&response, "sid").is_some());
        assert_eq!(ask(&mut socket, "").await, format!("{other}: "));
        close(socket).await;
        setup.backends.set_mode(name, Mode::Active).unwrap();
    }
    setup.idle().await;
    let stats = setup.backends.snapshot().stats;
    let outcomes = [Verdict::Assigned, Verdict::Pinned, Verdict::Moved].map(|v| stats.outcome(v));
    assert_eq!(outcomes, [2, 20, 2]);
}

#[tokio::test]
async fn a_killed_backend_closes_the_sockets_of_its_clients() {
    let mut setup = Setup::new().await;
    let (mut lost, response) = setup.open(None).await;
    let token = cookie(&response, "sid").unwrap();
    let (mut other, _) = setup.open(None).await;
    assert_eq!(ask(&mut lost, "hello").await, "a: hello");
    assert_eq!(ask(&mut other, "hello").await, "b: hello");
    setup.servers[0].stop();
    let end = in_time("the client notices", lost.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    drop(lost);
    until("it is not in flight any more", || setup.in_flight("a") == 0).await;
    assert_eq!(ask(&mut other, "and you?").await, "b: and you?");

    // The client reconnects with its cookie, and its session moves.
    let (mut socket, response) = setup.open(Some(&token)).await;
    assert_eq!(response.headers()[VERDICT], "moved");
    assert_eq!(ask(&mut socket, "hello").await, "b: hello");
    close(socket).await;
    close(other).await;
    setup.idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sockets_at_once() {
    const SOCKETS: usize = 200;
    let setup = Setup::new().await;
    let opened = join_all((0..SOCKETS).map(|_| setup.open(None))).await;
    let mut sockets: Vec<_> = opened.into_iter().map(|(socket, _)| socket).collect();
    assert_eq!((setup.in_flight("a"), setup.in_flight("b")), (SOCKETS / 2, SOCKETS / 2));
    for round in 0..3 {
        let talks = sockets.iter_mut().enumerate().map(|(number, socket)| async move {
            let text = format!("{number} in round {round}");
            let answer = ask(socket, &text).await;
            let (name, echo) = answer.split_once(": ").unwrap();
            assert_eq!(echo, text, "no socket receives a message of another one");
            name.to_owned()
        });
        let names = join_all(talks).await;
        assert_eq!(names.iter().filter(|name| *name == "a").count(), SOCKETS / 2);
    }
    assert_eq!((setup.in_flight("a"), setup.in_flight("b")), (SOCKETS / 2, SOCKETS / 2));
    join_all(sockets.into_iter().map(close)).await;
    setup.idle().await;
}
