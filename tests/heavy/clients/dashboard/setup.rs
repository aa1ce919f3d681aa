//! The gateway with an admin address, backends that are processes, and customers with sessions.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tower_sticky_heavy_tests::{
    backend_process::{Log, Process},
    client::{Client, cookie},
    in_time,
    process::Gateway,
};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";
/// How many sessions each of the three backends has.
pub const EACH: usize = 4;
const COOKIE: &str = "SERVER_ID";

/// A gateway over the backends `a`, `b` and `c`, each with some sessions.
pub struct Dashboard {
    gateway: Gateway,
    admin: SocketAddr,
    token: Option<&'static str>,
    /// Where the page is.
    pub url: String,
    pub backends: [Process; 3],
    pub customers: Vec<Customer>,
}

impl Dashboard {
    pub async fn start() -> Self {
        Self::start_with(["a", "b", "c"], None).await
    }

    /// With these ids of backends, and an admin token.
    pub async fn start_with(ids: [&str; 3], token: Option<&'static str>) -> Self {
        let log = Log::default();
        let backends = [
            Process::start("one", &log).await,
            Process::start("two", &log).await,
            Process::start("three", &log).await,
        ];
        let mut file = String::from("admin = \"127.0.0.1:0\"\n");
        if let Some(token) = token {
            file.push_str(&format!("admin_token = \"{token}\"\n"));
        }
        file.push_str(&format!(
            "[[affinity]]\ntype = \"cookie\"\nname = \"{COOKIE}\"\nkeys = [\"base64:{KEY}\"]\n\
             [strategy]\ntype = \"round-robin\"\n\
             [health]\nprobe = {{ path = \"/healthz\", interval = \"100ms\", timeout = \"30s\", rise = 1, fall = 1 }}\n"
        ));
        for (id, backend) in ids.iter().zip(&backends) {
            let addr = backend.port.addr;
            file.push_str(&format!("[[backend]]\nid = \"{id}\"\nurl = \"http://{addr}\"\n"));
        }
        let mut gateway = Gateway::configured(&file).await;
        let admin = gateway.admin_addr().await;
        let mut customers = Vec::new();
        for _ in 0..3 * EACH {
            customers.push(Customer::begin(gateway.addr).await);
        }
        let url = format!("http://{admin}/");
        Self { gateway, admin, token, url, backends, customers }
    }

    /// Each customer asks once more.
    pub async fn visits(&mut self) {
        for customer in &mut self.customers {
            customer.visit(self.gateway.addr).await;
        }
    }

    /// A backend, as the JSON interface shows it.
    pub async fn backend(&self, id: &str) -> Value {
        let all = self.call(Method::GET, "/backends", "").await;
        let all = all.as_array().unwrap();
        all.iter().find(|backend| backend["id"] == id).expect("it is in the pool").clone()
    }

    /// The number of requests so far.
    pub async fn requests(&self) -> u64 {
        self.call(Method::GET, "/stats", "").await["requests"].as_u64().unwrap()
    }

    /// The last moves.
    pub async fn moves(&self) -> Vec<Value> {
        self.call(Method::GET, "/moves", "").await.as_array().unwrap().clone()
    }

    pub async fn set_mode(&self, id: &str, mode: &str) {
        let path: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let body = json!({ "mode": mode }).to_string();
        self.call(Method::PATCH, &format!("/backends/{path}"), &body).await;
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Value {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::from(body.to_owned())).unwrap();
        let mut client = Client::new(self.admin);
        let answer = in_time("the admin interface answers", client.send(request)).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        serde_json::from_slice(answer.body()).unwrap()
    }
}

/// Somebody with a session.
pub struct Customer {
    /// The value of the cookie.
    pub token: String,
}

impl Customer {
    /// A new session, whose token has come back once.
    async fn begin(gateway: SocketAddr) -> Self {
        let first = ask(gateway, None).await;
        let mut customer = Self { token: cookie(&first, COOKIE).expect("a session begins") };
        customer.visit(gateway).await;
        customer
    }

    async fn visit(&mut self, gateway: SocketAddr) {
        let answer = ask(gateway, Some(&self.pair())).await;
        if let Some(token) = cookie(&answer, COOKIE) {
            self.token = token;
        }
    }

    /// `NAME=VALUE`.
    pub fn pair(&self) -> String {
        format!("{COOKIE}={}", self.token)
    }
}

async fn ask(gateway: SocketAddr, cookie: Option<&str>) -> Response<Bytes> {
    let mut request = Request::get("/");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    let request = request.body(Full::default()).unwrap();
    let mut client = Client::new(gateway);
    let answer = in_time("the gateway answers", client.send(request)).await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    answer
}
