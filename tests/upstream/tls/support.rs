//! An authority, and servers with its certificates.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::ExtendedKeyUsagePurpose;
use rustls::{
    HandshakeKind, ServerConfig,
    pki_types::{CertificateDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tower_sticky::proxy::{ClientTls, Roots, Upstream};

pub(crate) use crate::authority::{Authority, Identity};

impl Authority {
    /// One of another name than all others: it would have signed wrongly otherwise.
    pub(crate) fn unique() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Self::new(&format!("authority {}", COUNT.fetch_add(1, Relaxed)))
    }

    /// For a server of these names.
    pub(crate) fn server(&self, names: &[&str]) -> Identity {
        self.sign_with(names, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    pub(crate) fn client(&self) -> Identity {
        self.sign_with(&["gateway"], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// For a server on this machine, valid from and until so many days from now.
    pub(crate) fn valid(&self, from: i64, until: i64) -> Identity {
        let day = |days: i64| {
            let by = Duration::from_secs(days.unsigned_abs() * 86_400 + 3600);
            let now = SystemTime::now();
            (if days < 0 { now - by } else { now + by }).into()
        };
        self.sign_with(&["127.0.0.1"], |params| {
            (params.not_before, params.not_after) = (day(from), day(until));
        })
    }

    /// Options that trust this authority alone.
    pub(crate) fn trusted(&self) -> ClientTls {
        ClientTls::new().roots(Roots::new().pem(self.pem().as_bytes()).unwrap())
    }
}

/// The configuration of a server of these protocols.
pub(crate) fn config(identity: &Identity, alpn: &[&str], clients: Option<&Authority>) -> Config {
    config_of(identity, alpn, clients, rustls::ALL_VERSIONS)
}

pub(crate) fn config_of(
    identity: &Identity,
    alpn: &[&str],
    clients: Option<&Authority>,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Config {
    let builder =
        ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_protocol_versions(versions)
            .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let provider = rustls::crypto::ring::default_provider().into();
            let roots = clients.roots().into();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let chain = CertificateDer::pem_slice_iter(identity.cert.as_bytes());
    let chain = chain.collect::<Result<_, _>>().unwrap();
    let mut config = builder.with_single_cert(chain, identity.key_der()).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

pub(crate) type Config = Arc<ServerConfig>;
pub(crate) type Reply = Response<BoxBody<Bytes, Infallible>>;

/// What a server has seen of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) resumed: bool,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<String>,
}

/// A TLS server, which ends with all its connections when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start<F, Fut>(config: Config, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), config, handler).await
    }

    pub(crate) async fn start_at<F, Fut>(addr: SocketAddr, config: Config, handler: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (record, count) = (seen.clone(), accepted.clone());
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let (config, record, handler) = (config.clone(), record.clone(), handler.clone());
                connections.spawn(serve(socket, config, record, handler));
            }
        });
        Self { addr, seen, accepted, accepting }
    }

    /// How many connections were accepted, before their handshakes.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Relaxed)
    }

    /// The connections whose handshakes have succeeded so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.addr)
    }

    pub(crate) fn upstream(&self, tls: ClientTls) -> Upstream {
        Upstream::with_tls(&self.url(), tls).unwrap()
    }

    /// Closes the socket and all connections.
    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        self.addr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<F, Fut>(socket: TcpStream, config: Config, seen: Arc<Mutex<Vec<Seen>>>, handler: F)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Reply> + Send + 'static,
{
    let Ok(stream) = TlsAcceptor::from(config).accept(socket).await else { return };
    let tls = stream.get_ref().1;
    let alpn = tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    seen.lock().unwrap().push(Seen {
        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
        sni: tls.server_name().map(ToOwned::to_owned),
        alpn: alpn.clone(),
    });
    let service = service_fn(move |request| {
        let reply = handler(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let io = TokioIo::new(stream);
    if alpn.as_deref() == Some("h2") {
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = http2.serve_connection(io, service).await;
    } else {
        let http1 = hyper::server::conn::http1::Builder::new();
        let _ = http1.serve_connection(io, service).with_upgrades().await;
    }
}

pub(crate) fn reply(text: impl Into<String>) -> Reply {
    Response::new(http_body_util::Full::<Bytes>::from(text.into()).boxed())
}

/// Says how it was asked.
pub(crate) async fn says_how(request: Request<Incoming>) -> Reply {
    let host = match request.uri().authority() {
        Some(authority) => authority.to_string(),
        None => request.headers()["host"].to_str().unwrap().to_owned(),
    };
    let scheme = request.uri().scheme_str().unwrap_or("-").to_owned();
    reply(format!("{:?} {scheme} {host} {}", request.version(), request.uri().path()))
}
