//! An HTTP/1.1 client with one connection.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use tower_sticky::BoxError;

use crate::kept_connection::KeptConnection;

pub struct Client {
    addr: SocketAddr,
    connection: Option<KeptConnection>,
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
        let mut connection = match KeptConnection::take_ready(&mut self.connection).await {
            Some(connection) => connection,
            None => {
                self.stage = "connecting";
                let connection = KeptConnection::open(self.addr).await?;
                self.local = Some(connection.local);
                connection
            }
        };
        self.stage = "waiting for the head of the answer";
        let (parts, body) = connection.send(request).await?.into_parts();
        self.stage = "waiting for the body of the answer";
        let body = connection.read(body).await?;
        self.stage = "waiting for the end of the exchange";
        if connection.is_kept().await {
            self.connection = Some(connection);
        }
        Ok(Response::from_parts(parts, body))
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
