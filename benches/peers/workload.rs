//! What is put on the proxies.

use std::{fmt, str::FromStr, time::Duration};

use crate::{
    Failure,
    backends::LARGE,
    load::{self, Loaded},
    peer::{Peer, Setup},
    process::Running,
    sockets,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Workload {
    /// Small answers on kept connections, with a plain cookie.
    Small,
    /// The same with a sealed one. The others have what they have.
    Sealed,
    ManyBackends,
    /// Of 1 MiB.
    Answers,
    Uploads,
    /// A connection for each request.
    Connections,
    /// TLS in front.
    Tls,
    TlsAnswers,
    TlsConnections,
    /// HTTP/2 in front, in clear text.
    Http2,
    Http2Answers,
    WebSocket,
    /// So many connections, each after one request: what they add to the process.
    Idle(usize),
}

const NAMES: [(Workload, &str, &str); 13] = [
    (Workload::Small, "small", "small answers, kept connections"),
    (Workload::Sealed, "sealed", "the same, sealed cookie"),
    (Workload::ManyBackends, "many-backends", "the same, 64 backends"),
    (Workload::Answers, "answers", "answers of 1 MiB"),
    (Workload::Uploads, "uploads", "uploads of 1 MiB"),
    (Workload::Connections, "connections", "a connection per request"),
    (Workload::Tls, "tls", "TLS, small answers"),
    (Workload::TlsAnswers, "tls-answers", "TLS, answers of 1 MiB"),
    (Workload::TlsConnections, "tls-connections", "TLS, a handshake per request"),
    (Workload::Http2, "h2", "HTTP/2, small answers"),
    (Workload::Http2Answers, "h2-answers", "HTTP/2, answers of 1 MiB"),
    (Workload::WebSocket, "websocket", "WebSocket, small echoes"),
    (Workload::Idle(10_000), "idle", "idle connections"),
];

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        NAMES.into_iter().map(|(workload, ..)| workload).collect()
    }

    /// Whether it has a rate and a CPU time per request.
    pub(crate) fn has_requests(self) -> bool {
        !matches!(self, Self::Idle(_))
    }

    /// How a proxy is set up for it; `None` when it does not take part.
    pub(crate) fn setup(self, peer: Peer) -> Option<Setup> {
        let is_complete = peer.is_complete();
        match self {
            Self::Sealed if peer == Peer::Gateway => Some(Setup::Sealed),
            Self::ManyBackends => Some(Setup::Many),
            Self::WebSocket => is_complete.then_some(Setup::Echo),
            Self::Tls | Self::TlsAnswers | Self::TlsConnections => {
                is_complete.then_some(Setup::Plain)
            }
            // nginx 1.22 has HTTP/2 in clear text only where there is no HTTP/1.1.
            Self::Http2 | Self::Http2Answers if peer == Peer::Nginx => None,
            Self::Http2 | Self::Http2Answers => is_complete.then_some(Setup::Plain),
            _ => Some(Setup::Plain),
        }
    }

    /// Puts it on a proxy for some time.
    pub(crate) async fn run(self, proxy: &Running, time: Duration) -> Result<Loaded, Failure> {
        let clear = format!("http://{}", proxy.addr());
        let tls = format!("https://{}", proxy.tls_addr);
        let cookie = &proxy.cookie;
        match self {
            Self::Small | Self::Sealed | Self::ManyBackends => {
                load::wrk(&clear, cookie, &[], None, time).await
            }
            Self::Answers => load::wrk(&(clear + "/large"), cookie, &[], None, time).await,
            Self::Uploads => load::wrk(&clear, cookie, &[], Some(LARGE), time).await,
            Self::Connections => {
                load::wrk(&clear, cookie, &["Connection: close"], None, time).await
            }
            Self::Tls => load::wrk(&tls, cookie, &[], None, time).await,
            Self::TlsAnswers => load::wrk(&(tls + "/large"), cookie, &[], None, time).await,
            Self::TlsConnections => {
                load::wrk(&tls, cookie, &["Connection: close"], None, time).await
            }
            Self::Http2 => load::h2load(&clear, cookie, time).await,
            Self::Http2Answers => load::h2load(&(clear + "/large"), cookie, time).await,
            Self::WebSocket => sockets::echo(proxy.addr(), cookie, time).await,
            Self::Idle(count) => sockets::idle(proxy, count, time).await,
        }
    }

    fn names(self) -> (&'static str, &'static str) {
        let same = |other: Self| std::mem::discriminant(&other) == std::mem::discriminant(&self);
        let found = NAMES.into_iter().find(|(workload, ..)| same(*workload));
        found.map_or(("", ""), |(_, short, long)| (short, long))
    }

    /// For the table.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Idle(count) => format!("{count} idle connections"),
            other => other.names().1.to_owned(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.names().0)
    }
}

impl FromStr for Workload {
    type Err = Failure;

    fn from_str(name: &str) -> Result<Self, Failure> {
        let found = NAMES.into_iter().find(|(_, short, _)| *short == name);
        let (workload, ..) =
            found.ok_or_else(|| format!("there is no workload {name:?}; see --help"))?;
        Ok(workload)
    }
}
