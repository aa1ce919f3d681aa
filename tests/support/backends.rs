//! Real backends on free ports.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::timeout,
};

use super::{
    client::{self, Answer, read_head},
    process::FOREVER,
    unending::Unending,
};

/// A running backend. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Backend {
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// `ID=URL`, as the command line wants it.
    pub(crate) fn flag(&self, id: &str) -> String {
        format!("{id}={}", self.url())
    }

    /// Its entry in the file.
    pub(crate) fn entry(&self, id: &str) -> String {
        format!("[[backend]]\nid = \"{id}\"\nurl = \"{}\"\n", self.url())
    }

    pub(crate) async fn axum(router: Router) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), router)
    }

    fn serve(listener: TcpListener, router: Router) -> Self {
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, task }
    }

    /// Every connection is handled by `handle`, byte by byte.
    pub(crate) async fn raw<H, F>(handle: H) -> Self
    where
        H: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(tokio::spawn(handle(stream)));
            }
        });
        Self { addr, task }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers with the request, as JSON.
pub(crate) async fn echo(name: &'static str) -> Backend {
    echo_at(name, "127.0.0.1:0").await
}

/// The same, at this address.
pub(crate) async fn echo_at(name: &'static str, address: &str) -> Backend {
    let answer = move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body: Bytes = body.collect().await.unwrap().to_bytes();
        let mut headers = serde_json::Map::new();
        for (name, value) in &parts.headers {
            let values = headers.entry(name.as_str()).or_insert_with(|| json!([]));
            let value = value.to_str().unwrap_or("").into();
            if let Value::Array(values) = values {
                values.push(value);
            }
        }
        Json(json!({
            "name": name,
            "method": parts.method.as_str(),
            "uri": parts.uri.to_string(),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        }))
    };
    Backend::serve(TcpListener::bind(address).await.unwrap(), Router::new().fallback(answer))
}

/// Answers with its name, and copies `x-say` of the request to `x-sticky-action`.
pub(crate) async fn talking(name: &'static str) -> Backend {
    let answer = move |request: Request| async move {
        let mut headers = http::HeaderMap::new();
        if let Some(word) = request.headers().get("x-say") {
            headers.insert("x-sticky-action", word.clone());
        }
        (headers, Json(json!({ "name": name })))
    };
    Backend::axum(Router::new().fallback(answer)).await
}

/// Answers with its name, and with the status that it is told: one to probes (`/healthz`), and one to
/// all other requests.
#[derive(Debug)]
pub(crate) struct Moody {
    pub(crate) backend: Backend,
    pub(crate) to_probes: Arc<AtomicU16>,
    pub(crate) to_others: Arc<AtomicU16>,
}

pub(crate) async fn moody(name: &'static str) -> Moody {
    let [to_probes, to_others] = [(); 2].map(|()| Arc::new(AtomicU16::new(200)));
    let (probes, others) = (to_probes.clone(), to_others.clone());
    let answer = move |request: Request| {
        let is_probe = request.uri().path() == "/healthz";
        let status = if is_probe { &probes } else { &others }.load(Ordering::SeqCst);
        async move { (StatusCode::from_u16(status).unwrap(), Json(json!({ "name": name }))) }
    };
    Moody { backend: Backend::axum(Router::new().fallback(answer)).await, to_probes, to_others }
}

/// An application with sessions of its own: `/login` begins one, `/logout` ends it.
pub(crate) async fn sessions(name: &'static str) -> Backend {
    let answer = move |request: Request| async move {
        let cookie = request.headers().get("cookie").map_or("", |value| value.to_str().unwrap());
        let body = Json(json!({ "name": name, "cookie": cookie }));
        let mut headers = http::HeaderMap::new();
        let set = match request.uri().path() {
            "/login" => format!("JSESSIONID=id-of-{name}; Path=/; HttpOnly"),
            "/logout" => "JSESSIONID=; Path=/; Max-Age=0".to_owned(),
            _ => return (headers, body),
        };
        headers.insert("set-cookie", set.parse().unwrap());
        (headers, body)
    };
    Backend::axum(Router::new().fallback(answer)).await
}

/// A backend whose responses wait until they are released.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) backend: Backend,
    arrived: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

pub(crate) async fn held(name: &'static str) -> Held {
    let (arrived, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (tell, wait) = (arrived.clone(), go.clone());
    let answer = move |_: Request| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            tell.add_permits(1);
            wait.acquire().await.unwrap().forget();
            Json(json!({ "name": name }))
        }
    };
    Held { backend: Backend::axum(Router::new().fallback(answer)).await, arrived, go }
}

impl Held {
    /// Waits until a request has arrived.
    pub(crate) async fn arrival(&self) {
        let arrived = timeout(FOREVER, self.arrived.acquire()).await;
        arrived.expect("a request arrives in time").unwrap().forget();
    }

    /// Sends a request through the gateway in a task of its own, and waits until it has arrived.
    pub(crate) async fn request(&self, gateway: SocketAddr) -> JoinHandle<Answer> {
        let request = tokio::spawn(async move { client::get(gateway, "/").await });
        self.arrival().await;
        request
    }

    /// The same over HTTP/2.
    pub(crate) async fn http2_request(&self, gateway: SocketAddr) -> JoinHandle<Answer> {
        let mut sender = client::http2(gateway).await;
        let request = http::Request::get(format!("http://{gateway}/"));
        let request = request.body(Full::default()).unwrap();
        let request =
            tokio::spawn(
                async move { client::read(sender.send_request(request).await.unwrap()).await },
            );
        self.arrival().await;
        request
    }

    /// Releases one response.
    pub(crate) fn release(&self) {
        self.go.add_permits(1);
    }
}

/// Answers `/stream` with a stream of one frame that never ends, and everything
/// else with its name.
pub(crate) async fn streaming(name: &'static str) -> Backend {
    let answer = move |request: Request| async move {
        match request.uri().path() {
            "/stream" => Response::new(Body::new(Unending::after("begun"))),
            _ => Json(json!({ "name": name })).into_response(),
        }
    };
    Backend::axum(Router::new().fallback(answer)).await
}

/// Answers with its name, and can [die](Mortal::die) and [come back](Refusing::come_back).
#[derive(Debug)]
pub(crate) struct Mortal {
    pub(crate) backend: Backend,
    router: Router,
}

pub(crate) async fn mortal(name: &'static str) -> Mortal {
    // No connection outlives its response, so that a killed backend leaves none.
    let answer = move || async move { ([("connection", "close")], Json(json!({ "name": name }))) };
    let router = Router::new().fallback(answer);
    Mortal { backend: Backend::axum(router.clone()).await, router }
}

impl Mortal {
    /// From now on every connection is refused.
    pub(crate) async fn die(self) -> (Refusing, Router) {
        let addr = self.backend.addr;
        drop(self.backend);
        let bound = async {
            loop {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_reuseaddr(true).unwrap();
                match socket.bind(addr) {
                    Ok(()) => return socket,
                    // It still listens.
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let socket = timeout(FOREVER, bound).await.expect("it stops listening in time");
        (Refusing { addr, socket }, self.router)
    }
}

/// A reserved address where every connection is refused.
#[derive(Debug)]
pub(crate) struct Refusing {
    pub(crate) addr: SocketAddr,
    socket: TcpSocket,
}

pub(crate) fn refusing() -> Refusing {
    // Bound, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    Refusing { addr: socket.local_addr().unwrap(), socket }
}

impl Refusing {
    pub(crate) fn come_back(self, router: Router) -> Backend {
        Backend::serve(self.socket.listen(1024).unwrap(), router)
    }
}

/// Answers with something that is not HTTP.
pub(crate) async fn garbage() -> Backend {
    Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"what is this?\r\n\r\n").await;
    })
    .await
}

/// Accepts requests and never answers.
pub(crate) async fn silent() -> Backend {
    Backend::raw(|mut stream| async move {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
    })
    .await
}

/// Upgrades every request, and then echoes in upper case.
pub(crate) async fn upgrading() -> Backend {
    Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut buffer = [0; 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            buffer[..read].make_ascii_uppercase();
            if stream.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
    })
    .await
}
