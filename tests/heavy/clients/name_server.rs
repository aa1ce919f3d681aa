//! A gateway whose backend has a host name, with a real name server.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tower_sticky::discovery::hickory_resolver::proto::{op::ResponseCode, rr::RecordType};
use tower_sticky_heavy_tests::{
    client::{Client, cookie},
    in_time,
    process::Gateway,
};

use crate::dns_server::{NameServer, Reply};

const NAME: &str = "cart.test.";
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const EVERY: Duration = Duration::from_millis(50);

fn config(port: u16, names: &NameServer) -> String {
    format!(
        "admin = \"127.0.0.1:0\"\nserver_timing = true\n\
         [upstream]\nresolve_every = \"50ms\"\nnameservers = [\"{}\"]\n\
         [limits]\nconnect_timeout = \"5s\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"sid\"\nkeys = [\"base64:{KEY}\"]\n\
         [[backend]]\nid = \"cart\"\nurl = \"http://cart.test.:{port}\"\n\
         [[backend]]\nid = \"other\"\nurl = \"http://127.0.0.3:{port}\"\nweight = 0\n",
        names.addr
    )
}

async fn backends(admin: SocketAddr) -> Value {
    let request = Request::get("/backends").body(Full::default()).unwrap();
    let answer = Client::new(admin).send(request).await.unwrap();
    serde_json::from_slice(answer.body()).unwrap()
}

/// A server that answers with its address.
fn serve(listener: TcpListener) -> JoinHandle<()> {
    let addr = listener.local_addr().unwrap().ip().to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let addr = addr.clone();
            let answer = service_fn(move |_| {
                let answer = Response::new(Full::new(Bytes::from(addr.clone())));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
        }
    })
}

/// A client with a session.
struct Visitor {
    client: Client,
    token: Option<String>,
}

impl Visitor {
    /// The outcome, and the server that answered.
    async fn visit(&mut self) -> (String, String) {
        let mut request = Request::get("/");
        if let Some(token) = &self.token {
            request = request.header("cookie", format!("sid={token}"));
        }
        let answer = self.client.send(request.body(Full::default()).unwrap()).await.unwrap();
        self.token = cookie(&answer, "sid").or(self.token.take());
        let outcome = answer.headers()["server-timing"].to_str().unwrap().to_owned();
        (outcome, String::from_utf8(answer.body().to_vec()).unwrap())
    }
}

/// The resolution fails, in each way: the session stays, and its backend is ready.
async fn stay_while_the_resolution_fails(
    visitor: &mut Visitor,
    names: &NameServer,
    admin: SocketAddr,
    (pinned, server): (&str, &str),
) {
    for reply in
        [Reply::None, Reply::Code(ResponseCode::ServFail), Reply::Code(ResponseCode::NXDomain)]
    {
        names.set(NAME, RecordType::A, reply.clone());
        names.set(NAME, RecordType::AAAA, reply);
        for _ in 0..10 {
            sleep(EVERY).await;
            assert_eq!(visitor.visit().await, (pinned.to_owned(), server.to_owned()));
            let backends = backends(admin).await;
            assert_eq!(backends[0]["state"], "ready", "no evidence: {backends}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_follows_its_host_name_and_survives_resolver_failures() {
    let names = NameServer::start().await;
    names.addresses(NAME, 60, &["127.0.0.1", "127.0.0.2"]);
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let servers = [
        serve(first),
        serve(TcpListener::bind(("127.0.0.2", port)).await.unwrap()),
        serve(TcpListener::bind(("127.0.0.3", port)).await.unwrap()),
    ];
    let log = [("RUST_LOG", "warn,tower_sticky=info")];
    let mut gateway = Gateway::configured_with(&config(port, &names), &log).await;
    let admin = gateway.admin_addr().await;
    gateway.stderr_line("has several addresses").await;
    let mut visitor = Visitor { client: Client::new(gateway.addr), token: None };
    let pinned = "sticky;desc=\"pinned cart\"";
    let (outcome, home) = visitor.visit().await;
    assert_eq!(outcome, "sticky;desc=\"assigned cart\"");
    for _ in 0..20 {
        assert_eq!(visitor.visit().await, (pinned.to_owned(), home.clone()));
    }
    stay_while_the_resolution_fails(&mut visitor, &names, admin, (pinned, &home)).await;

    // The address changes while the old server still answers.
    let next = if home == "127.0.0.1" { "127.0.0.2" } else { "127.0.0.1" };
    let token = visitor.token.clone();
    names.addresses(NAME, 60, &[next]);
    let moved = async {
        loop {
            let (outcome, server) = visitor.visit().await;
            assert_eq!(outcome, pinned);
            if server == next {
                return;
            }
            assert_eq!(server, home);
            sleep(Duration::from_millis(5)).await;
        }
    };
    in_time("the session follows the name", moved).await;
    assert_ne!(visitor.token, token, "the session has a new epoch");
    gateway.stderr_line("address changed").await;
    let token = visitor.token.clone();
    for _ in 0..20 {
        assert_eq!(visitor.visit().await, (pinned.to_owned(), next.to_owned()), "and never back");
    }
    assert_eq!(visitor.token, token);
    servers.iter().for_each(JoinHandle::abort);
}
