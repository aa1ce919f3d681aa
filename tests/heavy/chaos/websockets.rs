//! WebSockets that outlive the idle timeout of their sessions, while backends are drained with and without a
//! deadline and sessions that rest are moved: a user with an open stream is not idle, and does not rest.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};
use tower_sticky_heavy_tests::{
    FOREVER,
    backend_process::{Log, Process},
    client::{Client, cookie},
    in_time,
    process::Gateway as GatewayProcess,
};

use crate::{admin::Admin, alone, check::Findings, length, random::Random};

const USERS: usize = 9;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Sessions expire after two idle seconds, and may be rebalanced after one and a half. Tokens count in
/// whole seconds, so no session is without a request or a stream for more than half a second.
const SECTIONS: &str = "admin = \"127.0.0.1:0\"\nserver_timing = true\n\
    [rebalance]\ntolerance = 1.1\nidle_for = \"2s\"\nmax_per_second = 1000\n\
    [[affinity]]\ntype = \"cookie\"\nname = \"sid\"\nidle_timeout = \"3s\"\n\
    keys = [\"base64:q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=\"]\n";

/// The period in which the sessions of a backend had to leave.
type Deadlines = Arc<Mutex<Vec<(&'static str, Instant, Option<Instant>)>>>;

struct User {
    addr: SocketAddr,
    client: Client,
    token: Option<String>,
    /// Its backend, and since when it is known to be pinned there.
    home: Option<(String, Instant)>,
    random: Random,
    deadlines: Deadlines,
    findings: Arc<Mutex<Findings>>,
    streams: usize,
}

impl User {
    /// Whether the sessions of a backend had to leave since then.
    fn had_to_leave(&self, name: &str, since: Instant) -> bool {
        let deadlines = self.deadlines.lock().unwrap();
        let met = |of: &&(&str, Instant, Option<Instant>)| {
            of.0 == name && of.2.is_none_or(|until| since <= until)
        };
        deadlines.iter().any(|it| met(&it))
    }

    /// Sends a request, which must reach the same backend as before.
    async fn visit(&mut self, after: &'static str) {
        let mut request = Request::get("/");
        if let Some(token) = &self.token {
            request = request.header(header::COOKIE, format!("sid={token}"));
        }
        let sent = Instant::now();
        let sending = self.client.send(request.body(Full::default()).unwrap());
        let answer = in_time("an answer comes", sending).await.unwrap();
        let outcome = answer.headers()["server-timing"].to_str().unwrap().to_owned();
        self.token = cookie(&answer, "sid").or(self.token.take());
        if answer.status() != StatusCode::OK {
            let mut findings = self.findings.lock().unwrap();
            findings.add("A request was refused.", &(answer.status(), outcome));
            return;
        }
        let server = answer.headers()["x-server"].to_str().unwrap().to_owned();
        if let Some((home, since)) = &self.home
            && *home != server
            && !self.had_to_leave(home, *since)
        {
            let mut findings = self.findings.lock().unwrap();
            findings.add("A session left its backend without need.", &(after, home, outcome));
        }
        self.home = Some((server, sent));
    }

    async fn open(&self) -> Option<(WebSocketStream<TcpStream>, String)> {
        let mut request = format!("ws://{}/", self.addr).into_client_request().unwrap();
        let cookie = format!("sid={}", self.token.as_deref()?).try_into().unwrap();
        request.headers_mut().insert(header::COOKIE, cookie);
        let stream = TcpStream::connect(self.addr).await.unwrap();
        match in_time("the socket opens", client_async(request, stream)).await {
            Ok((socket, response)) => {
                Some((socket, response.headers()["x-server"].to_str().unwrap().to_owned()))
            }
            Err(error) => {
                self.findings.lock().unwrap().add("A socket did not open.", &error.to_string());
                None
            }
        }
    }

    /// Sends messages on a socket, or only listens. Only a deadline may end it early.
    async fn talk(&mut self) {
        let Some((mut socket, server)) = self.open().await else { return };
        let began = Instant::now();
        if let Some((home, since)) = &self.home
            && *home != server
            && !self.had_to_leave(home, *since)
        {
            let mut findings = self.findings.lock().unwrap();
            findings.add("A socket was not with its session's backend.", &(home, &server));
        }
        let (end, talks) = (began + self.random.millis(300..6_000), self.random.among(0..3) > 0);
        let mut result = Ok(());
        while Instant::now() < end && result.is_ok() {
            if talks {
                result = exchange(&mut socket, &server).await;
            }
            let pause = self.random.millis(50..300);
            if let Ok(Some(Err(error))) = timeout(pause, socket.next()).await {
                result = Err(error);
            }
        }
        if let Err(error) = result
            && !self.had_to_leave(&server, began)
        {
            let mut findings = self.findings.lock().unwrap();
            findings.add("A socket broke without need.", &(server.clone(), error.to_string()));
        }
        let _ = socket.close(None).await;
        self.streams += 1;
        self.home = Some((server, began));
    }
}

/// Sends a message, and reads the echo of the backend.
async fn exchange(socket: &mut WebSocketStream<TcpStream>, server: &str) -> Result<(), Error> {
    socket.send(Message::text("hello")).await?;
    let answer = timeout(FOREVER, socket.next()).await.expect("an answer comes");
    let answer = answer.ok_or(Error::ConnectionClosed)??;
    match answer {
        Message::Text(text) => assert_eq!(text, format!("{server}: hello")),
        _ => return Err(Error::ConnectionClosed),
    }
    Ok(())
}

async fn live(mut user: User, over: Arc<AtomicBool>) -> usize {
    user.visit("the beginning").await;
    while !over.load(Relaxed) {
        let after = match user.random.among(0..3) {
            0 => "a rest",
            _ => {
                user.talk().await;
                "a stream"
            }
        };
        sleep(user.random.millis(0..500)).await;
        user.visit(after).await;
    }
    user.streams
}

/// Drains one backend for some time, with or without a deadline.
async fn drain(admin: &Admin, random: &mut Random, deadlines: &Deadlines) {
    let name = random.one_of(&NAMES);
    let has_deadline = random.among(0..2) == 0;
    if has_deadline {
        deadlines.lock().unwrap().push((name, Instant::now(), None));
        admin.patch(name, json!({ "mode": "draining", "deadline": "300ms" })).await;
    } else {
        admin.patch(name, json!({ "mode": "draining" })).await;
    }
    sleep(random.millis(200..2_500)).await;
    admin.patch(name, json!({ "mode": "active" })).await;
    if has_deadline && let Some(last) = deadlines.lock().unwrap().last_mut() {
        last.2 = Some(Instant::now());
    }
}

async fn run(mut random: Random) {
    let log = Log::default();
    let mut backends = Vec::new();
    let mut config = SECTIONS.to_owned();
    for name in NAMES {
        let process = Process::start(name, &log).await;
        let url = format!("http://{}", process.port.addr);
        config += &format!("[[backend]]\nid = \"{name}\"\nurl = \"{url}\"\n");
        backends.push(process);
    }
    let mut gateway = GatewayProcess::configured(&config).await;
    let (addr, admin) = (gateway.addr, Admin(gateway.admin_addr().await));
    let said = tokio::spawn(async move { gateway.show_stderr().await });
    let (deadlines, over) = (Deadlines::default(), Arc::new(AtomicBool::new(false)));
    let findings = Arc::<Mutex<Findings>>::default();
    let mut users = JoinSet::new();
    for _ in 0..USERS {
        let user = User {
            addr,
            client: Client::new(addr),
            token: None,
            home: None,
            random: random.fork(),
            deadlines: deadlines.clone(),
            findings: findings.clone(),
            streams: 0,
        };
        users.spawn(live(user, over.clone()));
    }
    let end = Instant::now() + length();
    while Instant::now() < end {
        drain(&admin, &mut random, &deadlines).await;
        sleep(random.millis(100..1_500)).await;
    }
    over.store(true, Relaxed);
    let streams: usize = users.join_all().await.into_iter().sum();
    println!("{streams} streams, {} deadlines", deadlines.lock().unwrap().len());
    let stats = admin.call(http::Method::GET, "/stats", &Value::Null).await;
    let mut findings = std::mem::take(&mut *findings.lock().unwrap());
    if stats["violations"] != 0 {
        findings.add("The gateway has counted violations.", &stats);
    }
    said.abort();
    findings.assert_none();
}

#[test]
fn websockets() {
    alone("websockets", run);
}
