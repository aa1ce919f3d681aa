//! An HTTP/1.1 client with one connection.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_sticky::BoxError;

pub struct Client {
    addr: SocketAddr,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// The stage of the last request.
    pub stage: &'static str,
    local: Option<SocketAddr>,
}

impl Client {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, connection: None, stage: "new", local: None }
    }

    /// Sends a request and reads the whole answer. The connection is kept, unless that failed.
    pub async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, BoxError> {
        if !request.headers().contains_key(header::HOST) {
            request.headers_mut().insert(header::HOST, self.addr.to_string().try_into()?);
        }
        let mut connection = match self.connection.take() {
            Some(connection) if connection.is_ready() => connection,
            _ => {
                self.stage = "connecting";
                self.connect().await?
            }
        };
        self.stage = "waiting for the head of the answer";
        let (parts, body) = connection.send_request(request).await?.into_parts();
        self.stage = "waiting for the body of the answer";
        let body = body.collect().await?.to_bytes();
        self.stage = "waiting for the end of the exchange";
        if connection.ready().await.is_ok() {
            self.connection = Some(connection);
        }
        Ok(Response::from_parts(parts, body))
    }

    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, BoxError> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        self.local = stream.local_addr().ok();
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// For errors: the stage of the failed request.
impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?} to {})", self.stage, self.local, self.addr)
    }
}

/// The value of the cookie `name` that a response sets.
pub fn cookie<B>(response: &Response<B>, name: &str) -> Option<String> {
    let fields = response.headers().get_all(header::SET_COOKIE).iter();
    let mut fields = fields.filter_map(|field| field.to_str().ok());
    fields.find_map(|field| {
        let rest = field.strip_prefix(name)?.strip_prefix('=')?;
        Some(rest.split(';').next()?.to_owned())
    })
}
