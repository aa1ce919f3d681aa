//! A TLS client, and servers with certificates of one authority.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, HandshakeKind, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower_sticky::serve::{ServerHandle, ServerTls, ServerTlsBuilder};

use crate::{
    authority::{Authority, Identity},
    support::{addr, any_port, server},
};

/// What a client offers; its sessions are remembered from connection to connection.
#[derive(Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
}

/// The options of a [`Client`].
pub(crate) struct ClientOptions<'a> {
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) alpn: &'a [&'a str],
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) sni: bool,
}

impl Default for ClientOptions<'_> {
    fn default() -> Self {
        Self { identity: None, alpn: &[], versions: rustls::ALL_VERSIONS, sni: true }
    }
}

impl Client {
    pub(crate) fn new(authority: &Authority) -> Self {
        Self::with(authority, &ClientOptions::default())
    }

    pub(crate) fn with(authority: &Authority, options: &ClientOptions<'_>) -> Self {
        let builder = authority.client_config(options.versions);
        let mut config = match options.identity {
            Some(it) => builder.with_client_auth_cert(vec![it.der()], it.key_der()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = options.alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        config.enable_sni = options.sni;
        Self { config: Arc::new(config) }
    }

    pub(crate) async fn connect(
        &self,
        server: &ServerHandle,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        self.connect_over(TcpStream::connect(addr(server)).await?, name).await
    }

    pub(crate) async fn connect_over<S>(&self, stream: S, name: &str) -> io::Result<TlsStream<S>>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}

pub(crate) fn is_resumed<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// The certificate that the server has shown.
pub(crate) fn shown<S>(stream: &TlsStream<S>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

pub(crate) fn tls(identity: &Identity) -> ServerTlsBuilder {
    ServerTls::builder().certificate_pem(&identity.cert, &identity.key).unwrap()
}

pub(crate) async fn start(tls: ServerTls) -> ServerHandle {
    server(any_port().await.tls(tls)).start().unwrap()
}
