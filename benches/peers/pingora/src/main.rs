//! A proxy over Pingora with one thread, which sends requests to its backends in turn.
//!
//! ```text
//! pingora-peer LISTEN BACKEND…
//! ```

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use async_trait::async_trait;
use pingora_core::{
    Result,
    server::{Server, configuration::ServerConf},
    upstreams::peer::HttpPeer,
};
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

struct RoundRobin {
    backends: Vec<SocketAddr>,
    next: AtomicUsize,
}

#[async_trait]
impl ProxyHttp for RoundRobin {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let backend = self.backends[self.next.fetch_add(1, Relaxed) % self.backends.len()];
        Ok(Box::new(HttpPeer::new(backend, false, String::new())))
    }
}

fn main() {
    let mut addrs = env::args().skip(1);
    let listen = addrs.next().expect("LISTEN BACKEND…");
    let backends: Vec<_> = addrs.map(|addr| addr.parse().expect("an address")).collect();
    assert!(!backends.is_empty(), "LISTEN BACKEND…");
    let conf = ServerConf { threads: 1, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = RoundRobin { backends, next: AtomicUsize::new(0) };
    let mut service = http_proxy_service(&Arc::clone(&server.configuration), proxy);
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever();
}
