//! The clients: idle ones, and those that read or are read slowly.

use std::{any::Any, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{Failure, Load, Protocol, backend::LARGE, certificate::Certificate};

/// How many connections are opened at once.
const AT_ONCE: usize = 64;
/// A client that reads nothing has no room for more than this.
const RECEIVE_BUFFER: u32 = 16 << 10;

/// An open connection, and what keeps it open.
pub(crate) type Client = Box<dyn Any + Send>;

/// Opens connections to the proxies.
pub(crate) struct Opener {
    tls: TlsConnector,
}

impl Opener {
    /// With this certificate proxies prove themselves.
    pub(crate) fn new(certificate: &Certificate) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&certificate.cert)?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(config).into() })
    }

    /// Opens connections, each with one request.
    pub(crate) async fn open(
        &self,
        addr: SocketAddr,
        load: Load,
        count: usize,
        protocol: Protocol,
    ) -> Result<Vec<Client>, Failure> {
        let clients = stream::iter(0..count).map(|_| async move {
            match protocol {
                Protocol::Http1 => http1(addr, load).await,
                Protocol::Tls => self.tls(addr).await,
                Protocol::Http2 => http2(addr, load).await,
            }
        });
        clients.buffer_unordered(AT_ONCE).try_collect().await
    }

    /// An idle one.
    async fn tls(&self, addr: SocketAddr) -> Result<Client, Failure> {
        let name = ServerName::try_from("localhost")?;
        let mut stream = self.tls.connect(name, connect(addr).await?).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
        // TLS may still hold it.
        stream.flush().await?;
        match stream.read(&mut [0; 1024]).await? {
            0 => Err("the proxy has closed a connection".into()),
            _ => Ok(Box::new(stream)),
        }
    }
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    Ok(socket.connect(addr).await?)
}

async fn http1(addr: SocketAddr, load: Load) -> Result<Client, Failure> {
    let mut stream = connect(addr).await?;
    let head = match load {
        Load::Idle => "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        Load::SlowReaders => "GET /large HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        Load::SlowUploads => {
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")
        }
    };
    stream.write_all(head.as_bytes()).await?;
    if let Load::SlowUploads = load {
        return Ok(Box::new(tokio::spawn(async move {
            let chunk = [b'x'; 16 << 10];
            while stream.write_all(&chunk).await.is_ok() {}
        })));
    }
    let read = stream.read(&mut [0; 1024]).await?;
    if read == 0 {
        return Err("the proxy has closed a connection".into());
    }
    Ok(Box::new(stream))
}

async fn http2(addr: SocketAddr, load: Load) -> Result<Client, Failure> {
    let io = TokioIo::new(connect(addr).await?);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(1 << 20).initial_connection_window_size(1 << 20);
    let (mut sender, connection) = builder.handshake(io).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder();
    let (request, body) = match load {
        Load::Idle => (request.uri(format!("http://{addr}/")), Bytes::new()),
        Load::SlowReaders => (request.uri(format!("http://{addr}/large")), Bytes::new()),
        Load::SlowUploads => (
            request.uri(format!("http://{addr}/")).method(Method::POST),
            // One allocation for all of them.
            Bytes::from_static(&[b'x'; 8 << 20]),
        ),
    };
    let response = sender.send_request(request.body(Full::new(body))?);
    if let Load::SlowUploads = load {
        return Ok(Box::new((tokio::spawn(response), sender, driver)));
    }
    let response = response.await?;
    if let Load::SlowReaders = load {
        return Ok(Box::new((response, sender, driver)));
    }
    response.collect().await?;
    Ok(Box::new((sender, driver)))
}
