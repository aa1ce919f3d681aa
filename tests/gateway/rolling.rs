//! Gateways that are replaced one after the other, behind a balancer that looks at `/healthz`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

use crate::{
    backends::{Backend, echo},
    client::{Client, get, http2, read, was_not_processed},
    process::Gateway,
};

/// More than the balancer needs to see that a gateway stops, also on a slow machine.
const DRAIN_DELAY: &str = "drain_delay = \"3s\"";
const CHECK: Duration = Duration::from_millis(50);
const CLIENTS: usize = 16;

/// A gateway, as the balancer knows it.
#[derive(Debug, Clone, Copy)]
struct Target {
    addr: SocketAddr,
    admin: SocketAddr,
    is_up: bool,
}

/// Distributes TCP connections over the gateways that are up. It never connects again.
struct Balancer {
    addr: SocketAddr,
    targets: Arc<Mutex<Vec<Target>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Balancer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let targets = Arc::new(Mutex::new(Vec::<Target>::new()));
        let checked = targets.clone();
        let checks = tokio::spawn(async move {
            loop {
                let known = checked.lock().unwrap().clone();
                for target in known.iter().filter(|target| target.is_up) {
                    let is_up = get(target.admin, "/healthz").await.status == StatusCode::OK;
                    let mut targets = checked.lock().unwrap();
                    targets.retain(|it| is_up || it.addr != target.addr);
                }
                sleep(CHECK).await;
            }
        });
        let known = targets.clone();
        let accepts = tokio::spawn(async move {
            for turn in 0.. {
                let (mut client, _) = listener.accept().await.unwrap();
                let target = {
                    let targets = known.lock().unwrap();
                    targets[turn % targets.len()].addr
                };
                drop(tokio::spawn(async move {
                    let mut gateway = TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut gateway).await;
                }));
            }
        });
        Self { addr, targets, tasks: [checks, accepts] }
    }

    fn add(&self, addr: SocketAddr, admin: SocketAddr) {
        self.targets.lock().unwrap().push(Target { addr, admin, is_up: true });
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn gateway(backends: &[Backend; 2], balancer: &Balancer) -> Gateway {
    let [a, b] = backends;
    let key = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";
    let mut gateway = Gateway::configured(&format!(
        "admin = \"127.0.0.1:0\"\n{DRAIN_DELAY}\n\
         [[affinity]]\ntype = \"cookie\"\nkeys = [\"base64:{key}\"]\n{}{}",
        a.entry("a"),
        b.entry("b")
    ))
    .await;
    let admin = gateway.admin_addr().await;
    balancer.add(gateway.addr, admin);
    gateway
}

/// Sends until it is stopped, on a connection for each request or on HTTP/2 connections that are kept until GOAWAY.
async fn client(addr: SocketAddr, number: usize, stopped: watch::Receiver<bool>) -> usize {
    let mut client = Client::new(addr);
    let home = client.get("/").await.backend();
    let cookie = client.jar.iter().map(|(name, value)| format!("{name}={value}"));
    let cookie = cookie.collect::<Vec<_>>().join("; ");
    let (mut served, mut kept) = (0, None);
    while !*stopped.borrow() {
        let answer = if number.is_multiple_of(2) {
            client.get("/").await
        } else {
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => http2(addr).await,
            };
            if sender.ready().await.is_err() {
                continue;
            }
            let request = http::Request::get(format!("http://{addr}/")).header("cookie", &cookie);
            let answer =
                match sender.try_send_request(request.body(Default::default()).unwrap()).await {
                    Ok(answer) => read(answer).await,
                    // GOAWAY came before it was sent.
                    Err(error) if was_not_processed(&error) => continue,
                    Err(error) => panic!("a request that was sent has failed: {error:?}"),
                };
            kept = Some(sender);
            answer
        };
        assert_eq!((answer.status, answer.backend()), (StatusCode::OK, home.clone()));
        served += 1;
    }
    served
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_replacement_loses_nothing() {
    let backends = [echo("a").await, echo("b").await];
    let balancer = Balancer::start().await;
    let olds = [gateway(&backends, &balancer).await, gateway(&backends, &balancer).await];
    let (stop, stopped) = watch::channel(false);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(balancer.addr, number, stopped.clone())))
        .collect();
    let mut news = Vec::new();
    for mut old in olds {
        news.push(gateway(&backends, &balancer).await);
        old.signal("TERM").await;
        assert!(old.ended().await.success(), "it has finished what it had");
    }
    stop.send_replace(true);
    for client in clients {
        assert!(client.await.expect("nothing has failed") > 10);
    }
}
