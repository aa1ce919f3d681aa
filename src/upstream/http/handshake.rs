//! TLS handshakes with a backend.

use std::{
    error::Error,
    fmt, io,
    sync::{Arc, Mutex},
};

use rustls::{ClientConfig, client::Resumption, pki_types::ServerName};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::{
    client_tls::ClientTls,
    protocol::{Http2, Protocol},
    stream::Stream,
    target::Endpoint,
};
use crate::{
    error::{BoxError, ConfigError, TimedOut},
    tls::{is_protocol_refused, reason_in},
    util::{clock::later, lock},
};

/// Sessions to resume: those of one server name. Each name has eight.
const SESSIONS: usize = 8;

/// TLS to one backend.
#[derive(Clone)]
pub(super) struct Tls {
    options: ClientTls,
    name: ServerName<'static>,
    /// Without protocols (ALPN) and sessions.
    base: Arc<ClientConfig>,
    /// Of all connections but those of upgrades.
    config: Arc<ClientConfig>,
    /// Of upgrades, which are only possible in HTTP/1.1.
    http1: Arc<ClientConfig>,
    http2: Http2,
    endpoint: Endpoint,
    /// Why the last handshake failed, if it did.
    failure: Arc<Mutex<Option<String>>>,
}

impl Tls {
    pub(super) fn new(options: ClientTls, endpoint: &Endpoint) -> Result<Self, ConfigError> {
        let name = match endpoint {
            Endpoint::Name(name, _) => options.name_for(name)?,
            Endpoint::Addr(addr) => options.name_for(&addr.ip().to_string())?,
            #[cfg(unix)]
            Endpoint::Unix(_) => options.name_for("localhost")?,
        };
        let base = Arc::new(options.build()?);
        if options.is_insecure() {
            tracing::warn!(backend = %endpoint, "the certificate of a backend is not verified: insecure");
        }
        let (config, http1) = (base.clone(), base.clone());
        let endpoint = endpoint.clone();
        Ok(Self {
            options,
            name,
            base,
            config,
            http1,
            http2: Http2::Off,
            endpoint,
            failure: Arc::default(),
        })
    }

    /// For connections of these protocols, with sessions of its own.
    pub(super) fn for_protocols(&self, http2: Http2) -> Self {
        let mut config = ClientConfig::clone(&self.base);
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        let mut http1 = config.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.alpn_protocols = match http2 {
            Http2::Off => http1.alpn_protocols.clone(),
            Http2::On => vec![b"h2".to_vec()],
            Http2::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let failure = Arc::default();
        Self { config: Arc::new(config), http1: Arc::new(http1), http2, failure, ..self.clone() }
    }

    /// Verifies the backend, and learns the protocol of the connection.
    pub(super) async fn handshake(
        &self,
        stream: Stream,
        deadline: Instant,
        upgrades: bool,
    ) -> Result<(Stream, Protocol), BoxError> {
        let result = self.verify(stream, deadline, upgrades).await;
        match &result {
            // It is tried with the protocol that the backend speaks.
            Err(error) if upgrades && is_other_protocol(error) => {}
            Err(error) => self.log(Some(error.to_string())),
            Ok(_) => self.log(None),
        }
        result
    }

    /// Logs a failure, once: handshakes are retried often.
    fn log(&self, failure: Option<String>) {
        let mut last = lock(&self.failure);
        if let Some(error) = failure.as_ref().filter(|_| *last != failure) {
            tracing::warn!(backend = %self.endpoint, error, "no TLS connection to a backend");
        }
        *last = failure;
    }

    async fn verify(
        &self,
        stream: Stream,
        deadline: Instant,
        upgrades: bool,
    ) -> Result<(Stream, Protocol), BoxError> {
        let config = if upgrades { &self.http1 } else { &self.config };
        let due = deadline.min(later(self.options.limit()));
        // Boxed, as a handshake is several kilobytes and is over soon.
        let connecting =
            Box::pin(TlsConnector::from(config.clone()).connect(self.name.clone(), stream));
        let stream = match timeout_at(due, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(HandshakeError::of(error).into()),
            Err(_) => return Err(TimedOut::new("TLS handshake").into()),
        };
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            _ => Protocol::Http1,
        };
        if self.http2 == Http2::On && protocol == Protocol::Http1 {
            let why = "the backend does not choose h2 by ALPN, so it does not speak HTTP/2";
            return Err(HandshakeError { why: why.into(), source: None }.into());
        }
        Ok((Stream::Tls(Box::new(stream)), protocol))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

/// Whether the backend has refused all protocols that were offered (ALPN).
pub(super) fn is_other_protocol(error: &BoxError) -> bool {
    let error = error.downcast_ref::<HandshakeError>().and_then(|error| error.source.as_ref());
    error.is_some_and(is_protocol_refused)
}

/// The error of a handshake.
#[derive(Debug)]
struct HandshakeError {
    why: String,
    source: Option<io::Error>,
}

impl HandshakeError {
    fn of(error: io::Error) -> Self {
        let why = match reason_in(&error) {
            Some(reason) => reason,
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the backend closed the connection".into()
            }
            None => error.to_string(),
        };
        Self { why, source: Some(error) }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS handshake failed: {}", self.why)
    }
}

impl Error for HandshakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };
    use tracing_subscriber::layer::{Context, SubscriberExt};

    use super::*;

    /// The alert of a server that speaks none of the protocols that were offered (RFC 7301, section 3.2).
    const NO_APPLICATION_PROTOCOL: &[u8] = &[21, 3, 3, 0, 2, 2, 120];

    fn tls() -> Tls {
        let endpoint = Endpoint::Name("localhost".into(), 443);
        Tls::new(ClientTls::new().insecure(), &endpoint).unwrap().for_protocols(Http2::Off)
    }

    /// The error of a handshake with a server that responds with these bytes, and closes.
    async fn refused(tls: &Tls, answer: &'static [u8], upgrades: bool) -> BoxError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            // All that the client has sent: with unread bytes the connection would be reset.
            let mut head = [0; 5];
            server.read_exact(&mut head).await.unwrap();
            let length = u16::from_be_bytes([head[3], head[4]]);
            server.read_exact(&mut vec![0; usize::from(length)]).await.unwrap();
            server.write_all(answer).await.unwrap();
        });
        let deadline = later(Duration::from_secs(10));
        tls.handshake(Stream::Tcp(stream), deadline, upgrades).await.unwrap_err()
    }

    fn last_failure(tls: &Tls) -> Option<String> {
        lock(&tls.failure).clone()
    }

    /// Counts the events of a thread.
    #[derive(Clone, Default)]
    struct Events(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_failure_is_logged_once_for_each_choice_of_protocols() {
        let tls = tls();
        let other = tls.for_protocols(Http2::On);
        // Without a subscriber, so that tests in other threads cannot be the first ones to warn.
        tls.log(Some("first".into()));
        tls.log(None);
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        let _guard = tracing::subscriber::set_default(subscriber);
        let logged = [Some("a"), Some("a"), None, Some("a"), Some("b")].map(|failure| {
            tls.log(failure.map(str::to_owned));
            events.0.load(Ordering::Relaxed)
        });
        assert_eq!(logged, [1, 1, 1, 2, 3]);
        other.log(Some("b".into()));
        assert_eq!(events.0.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn an_upgrade_that_is_tried_with_another_protocol_is_no_failure() {
        let tls = tls();
        let error = refused(&tls, NO_APPLICATION_PROTOCOL, true).await;
        assert!(is_other_protocol(&error), "{error}");
        assert_eq!(last_failure(&tls), None);
        let error = refused(&tls, NO_APPLICATION_PROTOCOL, false).await;
        assert!(is_other_protocol(&error), "{error}");
        assert_eq!(last_failure(&tls), Some(error.to_string()));
    }

    #[tokio::test]
    async fn a_backend_that_closes_fails_the_handshake() {
        for upgrades in [false, true] {
            let tls = tls();
            let error = refused(&tls, &[], upgrades).await;
            assert!(!is_other_protocol(&error), "{upgrades}");
            let why = "TLS handshake failed: the backend closed the connection";
            assert_eq!(error.to_string(), why);
            assert_eq!(last_failure(&tls).as_deref(), Some(why), "{upgrades}");
        }
    }

    #[test]
    fn an_error_says_what_the_connection_said() {
        let error = HandshakeError::of(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(error.to_string(), "TLS handshake failed: connection reset");
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.unwrap().kind(), io::ErrorKind::ConnectionReset);
    }
}
