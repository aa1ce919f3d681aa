//! `HttpProbe`: an active probe by an HTTP request.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header, uri::Authority};
use http_body::Body;
use memchr::memmem;
use tower_service::Service;

use super::{
    exchange::{MAX_ANSWER, Sender, user_agent},
    statuses::Statuses,
};
use crate::{
    error::{BoxError, ConfigError},
    health::{Probe, ProbeBody},
    id::BackendId,
};

/// Headers that are about the connection or the length of the body, which the service sets.
const CONNECTION_HEADERS: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Probes a backend by an HTTP request. The probe succeeds if the response has an expected status, by
/// default 200 to 399, and its body contains the expected text, if any.
///
/// The response, or at least the first 64 KiB of its body, must arrive within
/// [`Health::probe_timeout`](crate::Health::probe_timeout). The request has no body, and the `Host` of
/// the backend unless [`host`](Self::host) sets another one.
///
/// # Example
///
/// ```no_run
/// # #[cfg(feature = "proxy")]
/// # fn run(keys: tower_sticky::KeyRing) -> Result<(), tower_sticky::ConfigError> {
/// use tower_sticky::{Backends, Health, HttpProbe, StickyLayer, affinity::Cookie, proxy::Upstream};
///
/// let backends = Backends::from_iter([("a", Upstream::new("http://10.0.0.1:8080")?)]);
/// let probe = HttpProbe::get("/healthz").expect_status(200).expect_body("ok");
/// let layer = StickyLayer::new(backends, Cookie::sealed("SERVER_ID", keys))
///     .health(Health::new().probe(probe));
/// # Ok(())
/// # }
/// ```
///
/// A service that takes another type of body gets it by [`map_body`](Self::map_body), for example an
/// Axum router by `HttpProbe::get("/healthz").map_body(axum::body::Body::new)`.
pub struct HttpProbe<B = ProbeBody> {
    spec: Result<Spec, ConfigError>,
    sender: Sender<B>,
}

/// The request, and the expected response.
#[derive(Debug, Clone)]
struct Spec {
    head: Request<()>,
    statuses: Statuses,
    text: Option<Bytes>,
}

impl HttpProbe {
    /// A `GET` request for `path`, which begins with `/` and may have a query. A path that is invalid is
    /// reported when the layer is built.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// As [`get`](Self::get), with the method `HEAD`.
    pub fn head(path: &str) -> Self {
        Self::new(Method::HEAD, path)
    }

    fn new(method: Method, path: &str) -> Self {
        let invalid = || {
            ConfigError::new(format!(
                "{path:?} is not the path of a probe; it has to begin with '/', have no characters \
                 but those of a URI, and no fragment"
            ))
        };
        let uri = Some(path).filter(|path| path.starts_with('/') && !path.contains('#'));
        let spec = uri.and_then(|path| path.parse::<Uri>().ok()).ok_or_else(invalid).map(|uri| {
            let mut head = Request::new(());
            (*head.method_mut(), *head.uri_mut()) = (method, uri);
            head.headers_mut().insert(header::USER_AGENT, user_agent());
            Spec { head, statuses: Statuses::successful(), text: None }
        });
        Self { spec, sender: Sender::new() }
    }
}

impl<B> HttpProbe<B> {
    /// Sets the method, for example `OPTIONS`, in upper case as it is sent. `CONNECT` is not a method for a
    /// path and is rejected.
    #[must_use]
    pub fn method(self, method: &str) -> Self {
        self.configure(|spec| {
            match Method::from_bytes(method.as_bytes()) {
                Ok(method) if method != Method::CONNECT => *spec.head.method_mut() = method,
                _ => {
                    return Err(ConfigError::new(format!(
                        "{method:?} is not the method of a probe; use one such as \"GET\", \"HEAD\" or \
                         \"OPTIONS\""
                    )));
                }
            }
            Ok(())
        })
    }

    /// Sets the `Host` header, a name with or without a port; default the backend's own.
    #[must_use]
    pub fn host(self, host: &str) -> Self {
        self.header("host", host)
    }

    /// Sets a header, replacing one of the same name. Headers about the connection or the length of the
    /// body, such as `Connection` and `Content-Length`, are rejected.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.configure(|spec| {
            let (name, value) = header_field(name, value)?;
            spec.head.headers_mut().insert(name, value);
            Ok(())
        })
    }

    /// Expects one status.
    #[must_use]
    pub fn expect_status(self, status: u16) -> Self {
        self.expect_statuses([status])
    }

    /// Expects one of these statuses, a range (`200..=299`) or a list (`[200, 204, 301]`) of 200 to 599;
    /// default 200 to 399.
    #[must_use]
    pub fn expect_statuses(self, statuses: impl IntoIterator<Item = u16>) -> Self {
        self.configure(|spec| {
            spec.statuses = Statuses::new(statuses)?;
            Ok(())
        })
    }

    /// Expects these bytes within the first 64 KiB of the body; default none.
    #[must_use]
    pub fn expect_body(self, text: impl AsRef<[u8]>) -> Self {
        let text = Bytes::copy_from_slice(text.as_ref());
        self.configure(|spec| {
            spec.text = Some(text);
            Ok(())
        })
    }

    fn configure(mut self, change: impl FnOnce(&mut Spec) -> Result<(), ConfigError>) -> Self {
        if let Ok(spec) = &mut self.spec
            && let Err(error) = change(spec).and_then(|()| spec.check())
        {
            self.spec = Err(error);
        }
        self
    }
}

impl Spec {
    /// Checks the parts that depend on each other.
    fn check(&self) -> Result<(), ConfigError> {
        if self.text.is_some() && self.head.method() == Method::HEAD {
            return Err(ConfigError::new(
                "a HEAD probe cannot expect a body; its answer has none: use HttpProbe::get",
            ));
        }
        Ok(())
    }
}

/// Checks a header of the request.
fn header_field(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), ConfigError> {
    let name = name.parse::<HeaderName>().map_err(|_| {
        ConfigError::new(format!("{name:?} is not a header name; a probe cannot send it"))
    })?;
    if CONNECTION_HEADERS.contains(&name) {
        return Err(ConfigError::new(format!(
            "a probe cannot set the header {name}, which is set by what sends the request; leave it out"
        )));
    }
    // The text of a host may contain the user and password of a URL by mistake, so it is not repeated.
    let is_host = |host: &str| !host.contains('@') && host.parse::<Authority>().is_ok();
    if name == header::HOST && !is_host(value) {
        return Err(ConfigError::new(
            "the probe's host is not one; use a name with or without a port, such as \"app.internal\"",
        ));
    }
    let value = HeaderValue::from_str(value).map_err(|_| {
        ConfigError::new(format!(
            "the probe's header {name} has a value that is not one; use visible ASCII"
        ))
    })?;
    Ok((name, value))
}

impl HttpProbe {
    /// Converts the request bodies to the type that the service takes, for example with
    /// `axum::body::Body::new`.
    #[must_use]
    pub fn map_body<B>(
        self,
        make_body: impl Fn(ProbeBody) -> B + Send + Sync + 'static,
    ) -> HttpProbe<B> {
        HttpProbe { spec: self.spec, sender: Sender::mapping(make_body) }
    }
}

impl<S, B, RB> Probe<S> for HttpProbe<B>
where
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>, Future: Send> + Send,
    B: Send + 'static,
    RB: Body<Data = Bytes, Error: Into<BoxError>> + Send,
{
    async fn probe(&self, service: S, _: &BackendId) -> Result<(), BoxError> {
        let spec = self.spec.as_ref().map_err(Clone::clone)?;
        let (head, body) = (spec.head.clone(), ProbeBody::default());
        let answer = self.sender.send(service, head, body).await?;
        if !spec.statuses.contains(answer.status.as_u16()) {
            return Err(format!("it answered {}, not {}", answer.status, spec.statuses).into());
        }
        match &spec.text {
            Some(text) if memmem::find(&answer.body, text).is_none() => {
                let read = if answer.body.len() == MAX_ANSWER { " within 64 KiB" } else { "" };
                let text = String::from_utf8_lossy(text);
                Err(format!("it answered {}, but without {text:?}{read}", answer.status).into())
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.spec.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

impl<B> Clone for HttpProbe<B> {
    fn clone(&self) -> Self {
        Self { spec: self.spec.clone(), sender: self.sender.clone() }
    }
}

impl<B> fmt::Debug for HttpProbe<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut probe = f.debug_struct("HttpProbe");
        match &self.spec {
            // The headers are left out, as they may contain secrets.
            Ok(spec) => probe
                .field("method", spec.head.method())
                .field("uri", spec.head.uri())
                .field("statuses", &spec.statuses)
                .field("text", &spec.text),
            Err(error) => probe.field("error", error),
        };
        probe.finish_non_exhaustive()
    }
}
