//! Nothing is wrong with the backends. But clients break off at every stage of a request, the gateway has
//! no file descriptor left now and then, and their names cannot be looked up for a while.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower_sticky::discovery::hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use tower_sticky_heavy_tests::{
    backend_process::{Log, Process},
    client::{Client, cookie},
    in_time,
    process::Gateway as GatewayProcess,
    until,
};

use crate::{
    aborts,
    admin::Admin,
    alone,
    check::Findings,
    length,
    name_server::{NameServer, Reply},
    random::Random,
};

/// The gateway's limit of descriptors: enough unless a client takes all of them.
const FILES: u32 = 256;
const REGULARS: usize = 8;
const ABORTERS: usize = 4;

/// How long after a shortage of descriptors requests may still fail.
const AFTERMATH: Duration = Duration::from_millis(1_500);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// The start and the end of a period without free descriptors.
type Shortage = (Instant, Instant);

fn config(backends: &[Process], names: &NameServer) -> String {
    let mut text = format!(
        "admin = \"127.0.0.1:0\"\nserver_timing = true\n\
         [upstream]\nresolve_every = \"50ms\"\nnameservers = [\"{}\"]\n\
         [limits]\nbody_timeout = \"200ms\"\nheader_timeout = \"1s\"\n\
         [health]\noutlier = {{ consecutive_5xx = 2 }}\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"sid\"\n\
         keys = [\"base64:q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=\"]\n",
        names.addr
    );
    for process in backends {
        let (name, port) = (process.name, process.port.addr.port());
        text += &format!("[[backend]]\nid = \"{name}\"\nurl = \"http://{name}.test.:{port}\"\n");
    }
    text
}

/// Records every change of a backend's state to one that is not ready.
async fn watch_health(admin: SocketAddr, unwell: Arc<Mutex<Vec<String>>>) {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let data = line.strip_prefix("data: ").and_then(|data| serde_json::from_str(data).ok());
        let to = data.as_ref().and_then(|data: &Value| data["to"].as_str());
        if matches!(to, Some("suspect" | "down")) {
            unwell.lock().unwrap().push(line);
        }
    }
}

/// A user with a session: every request must be answered by the same backend.
async fn stay(addr: SocketAddr, mut random: Random, over: Arc<AtomicBool>) -> Vec<Visit> {
    let (mut client, mut token, mut visits) = (Client::new(addr), None, Vec::new());
    while !over.load(Relaxed) {
        let method = if random.among(0..3) == 0 { "POST" } else { "GET" };
        let mut request = Request::builder().method(method).uri("/");
        if let Some(token) = &token {
            request = request.header("cookie", format!("sid={token}"));
        }
        let body = if method == "POST" { Bytes::from(vec![b'x'; 10_000]) } else { Bytes::new() };
        let sent = Instant::now();
        let sending = client.send(request.body(Full::new(body)).unwrap());
        let answer = in_time("an answer comes", sending).await;
        let ended = Instant::now();
        let answer = answer.map_err(|error| error.to_string()).map(|answer| {
            token = cookie(&answer, "sid").or(token.take());
            let name =
                answer.headers().get("x-server").map(|name| name.to_str().unwrap().to_owned());
            (answer.status(), name)
        });
        visits.push(Visit { sent, ended, answer });
        sleep(random.millis(0..6)).await;
    }
    visits
}

#[derive(Debug)]
struct Visit {
    sent: Instant,
    ended: Instant,
    answer: Result<(StatusCode, Option<String>), String>,
}

/// Takes all descriptors of the gateway for some time.
async fn take_all(addr: SocketAddr, random: &mut Random) -> Shortage {
    let began = Instant::now();
    let mut taken = Vec::new();
    for _ in 0..FILES {
        if let Ok(Ok(stream)) = timeout(Duration::from_secs(1), TcpStream::connect(addr)).await {
            taken.push(stream);
        }
    }
    sleep(random.millis(50..400)).await;
    drop(taken);
    (began, Instant::now())
}

/// Lets the resolution of names fail for some time, in different ways.
async fn confuse(names: &NameServer, random: &mut Random) {
    let say = match random.among(0..4) {
        0 => Reply::None,
        1 => Reply::Code(ResponseCode::ServFail),
        2 => Reply::Code(ResponseCode::NXDomain),
        _ => Reply::Records(0, Vec::new()),
    };
    for name in NAMES {
        names.set(&format!("{name}.test."), RecordType::A, say.clone());
        names.set(&format!("{name}.test."), RecordType::AAAA, say.clone());
    }
    sleep(random.millis(50..400)).await;
    tell_names(names);
}

fn tell_names(names: &NameServer) {
    for name in NAMES {
        names.addresses(&format!("{name}.test."), 0, &["127.0.0.1"]);
    }
}

fn check(visits: &[Vec<Visit>], shortages: &[Shortage], findings: &mut Findings) {
    let is_short = |visit: &Visit| {
        let meets = |(from, to): &Shortage| *from <= visit.ended && visit.sent <= *to + AFTERMATH;
        shortages.iter().any(meets)
    };
    let mut refused = 0;
    for life in visits {
        let mut home = None;
        for visit in life {
            match &visit.answer {
                Ok((StatusCode::OK, Some(name))) => {
                    if home.replace(name).is_some_and(|home| home != name) {
                        findings.add("A session moved though nothing was wrong.", visit);
                    }
                }
                Ok((StatusCode::SERVICE_UNAVAILABLE, None)) if is_short(visit) => refused += 1,
                _ => findings.add("A request failed though nothing was wrong.", visit),
            }
        }
    }
    let count: usize = visits.iter().map(Vec::len).sum();
    println!("{count} requests; {refused} came when there were no descriptors");
}

async fn run(mut random: Random) {
    let log = Log::default();
    let mut backends = Vec::new();
    for name in NAMES {
        backends.push(Process::start(name, &log).await);
    }
    let names = NameServer::start().await;
    tell_names(&names);
    let mut gateway = GatewayProcess::with_files(FILES, &config(&backends, &names)).await;
    let (addr, admin) = (gateway.addr, gateway.admin_addr().await);
    // Its output is read, so that the pipe does not fill up.
    let said = tokio::spawn(async move { gateway.show_stderr().await });
    let unwell = Arc::<Mutex<Vec<String>>>::default();
    let watching = tokio::spawn(watch_health(admin, unwell.clone()));
    reach_all(addr).await;
    let (visits, shortages) = disturb(addr, &names, &mut random).await;

    let mut findings = Findings::default();
    check(&visits, &shortages, &mut findings);
    for line in unwell.lock().unwrap().iter() {
        findings.add("A backend was blamed.", line);
    }
    check_gateway(&Admin(admin), &mut findings).await;
    watching.abort();
    said.abort();
    until("the watcher ends", || watching.is_finished()).await;
    findings.assert_none();
}

/// Sends requests until each backend has answered one, so that the gateway has the addresses of all.
async fn reach_all(addr: SocketAddr) {
    for name in NAMES {
        let answered = async {
            let request = || Request::get("/").body(Full::default()).unwrap();
            while Client::new(addr).send(request()).await.unwrap().headers()["x-server"] != *name {}
        };
        in_time("each backend is asked for the first time", answered).await;
    }
}

/// Runs the clients, and takes descriptors and names away meanwhile. Returns the requests of each regular
/// client, and the shortages.
async fn disturb(
    addr: SocketAddr,
    names: &NameServer,
    random: &mut Random,
) -> (Vec<Vec<Visit>>, Vec<Shortage>) {
    let over = Arc::new(AtomicBool::new(false));
    let (mut regulars, mut storms) = (JoinSet::new(), JoinSet::new());
    for _ in 0..REGULARS {
        regulars.spawn(stay(addr, random.fork(), over.clone()));
    }
    for _ in 0..ABORTERS {
        storms.spawn(aborts::abort_until(addr, random.fork(), over.clone()));
    }
    let (end, mut shortages) = (Instant::now() + length(), Vec::new());
    while Instant::now() < end {
        match random.among(0..2) {
            0 => shortages.push(take_all(addr, random).await),
            _ => confuse(names, random).await,
        }
        sleep(random.millis(100..600)).await;
    }
    sleep(AFTERMATH).await;
    over.store(true, Relaxed);
    let aborted: usize = storms.join_all().await.into_iter().sum();
    println!("{aborted} requests were broken off by their clients");
    (regulars.join_all().await, shortages)
}

/// After the faults all backends are idle and ready, and no session has moved.
async fn check_gateway(admin: &Admin, findings: &mut Findings) {
    let idle = Mutex::new(Vec::new());
    let nothing_left = async {
        loop {
            let all = admin.backends().await;
            let busy = |backend: &Value| backend["in_flight"] != 0 || backend["waiting"] != 0;
            if !all.iter().any(busy) {
                return *idle.lock().unwrap() = all;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    in_time("nothing is in flight without requests", nothing_left).await;
    for backend in idle.into_inner().unwrap() {
        if backend["state"] != "ready" {
            findings.add("A backend is not ready after the faults.", &backend);
        }
    }
    let stats = admin.call(http::Method::GET, "/stats", &Value::Null).await;
    if stats["moves"] != 0 || stats["violations"] != 0 {
        findings.add("The gateway has counted moves or violations.", &stats);
    }
}

#[test]
fn hostile_surroundings() {
    alone("hostile surroundings", run);
}
