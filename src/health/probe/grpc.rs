//! `GrpcProbe`: the gRPC health checking protocol, implemented without a gRPC library.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;
use tower_service::Service;

use super::exchange::{Answer, Sender, user_agent};
use crate::{
    error::BoxError,
    health::{Probe, ProbeBody},
    id::BackendId,
};

/// Probes a backend by the [gRPC health checking protocol] (`grpc.health.v1.Health/Check`). The probe
/// succeeds if the answer is `SERVING`. It fails for a server that does not implement the service.
///
/// The backend's service must speak HTTP/2: a Tonic `Channel`, or an `Upstream` with
/// [`http2`](crate::proxy::Upstream::http2). A `Channel` is always ready and connects when it is called,
/// so only the probe detects that its server is gone.
///
/// [gRPC health checking protocol]: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
///
/// # Example
///
/// For Tonic channels: `GrpcProbe::new().map_body(tonic::body::Body::new)`.
///
/// ```
/// use tower_sticky::{GrpcProbe, Health};
///
/// let health = Health::new().probe(GrpcProbe::new().service("shop.Cart"));
/// ```
pub struct GrpcProbe<B = ProbeBody> {
    message: Bytes,
    service: String,
    sender: Sender<B>,
}

impl GrpcProbe {
    /// Checks the server as a whole.
    pub fn new() -> Self {
        Self { message: request(""), service: String::new(), sender: Sender::new() }
    }

    /// Converts the request bodies to the type that the service takes, for example with
    /// `tonic::body::Body::new`.
    #[must_use]
    pub fn map_body<B>(
        self,
        make_body: impl Fn(ProbeBody) -> B + Send + Sync + 'static,
    ) -> GrpcProbe<B> {
        let Self { message, service, .. } = self;
        GrpcProbe { message, service, sender: Sender::mapping(make_body) }
    }
}

impl<B> GrpcProbe<B> {
    /// Checks one service of the server, for example `shop.Cart`; default the empty name, for the server
    /// as a whole.
    #[must_use]
    pub fn service(mut self, service: &str) -> Self {
        self.message = request(service);
        self.service = service.to_owned();
        self
    }
}

impl<S, B, RB> Probe<S> for GrpcProbe<B>
where
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>, Future: Send> + Send,
    B: Send + 'static,
    RB: Body<Data = Bytes, Error: Into<BoxError>> + Send,
{
    async fn probe(&self, service: S, _: &BackendId) -> Result<(), BoxError> {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("/grpc.health.v1.Health/Check");
        *request.version_mut() = Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::USER_AGENT, user_agent());
        let body = ProbeBody::new(self.message.clone());
        let answer = self.sender.send(service, request, body).await?;
        check_answer(&answer, &self.service).map_err(Into::into)
    }
}

/// A `HealthCheckRequest` with its gRPC prefix: a byte for no compression, and the length in four bytes.
/// The message has one field, the name of the service, with the number 1.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.unsplit(message);
    framed.freeze()
}

fn put_varint(to: &mut BytesMut, mut number: usize) {
    while number > 0x7f {
        to.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    to.put_u8(number as u8);
}

/// Checks that the answer reports a serving service.
fn check_answer(answer: &Answer, service: &str) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("it answered {}: that is not gRPC", answer.status));
    }
    // Without messages the status is in the headers ("trailers-only").
    let status = |headers: &HeaderMap| headers.get("grpc-status").cloned();
    let (status, from) = match (status(&answer.headers), status(&answer.trailers)) {
        (Some(status), _) => (status, &answer.headers),
        (None, Some(status)) => (status, &answer.trailers),
        (None, None) => return Err("it answered without a gRPC status".to_owned()),
    };
    match status.as_bytes() {
        b"0" => {}
        b"12" => {
            let hint = "it does not implement grpc.health.v1.Health; add that service to it (for \
                        Tonic there is the crate tonic-health), or probe in another way";
            return Err(hint.to_owned());
        }
        b"5" => return Err(format!("it does not know the service {service:?}")),
        other => {
            let code = String::from_utf8_lossy(other);
            let message = from.get("grpc-message").and_then(|text| text.to_str().ok());
            return Err(format!("it answered gRPC status {code}: {}", message.unwrap_or("")));
        }
    }
    match serving_status(&answer.body) {
        Some(1) => Ok(()),
        Some(0) => Err("it is UNKNOWN whether it serves".to_owned()),
        Some(2) => Err("it is NOT_SERVING".to_owned()),
        Some(3) => Err(format!("it does not know the service {service:?}")),
        Some(other) => Err(format!("it has the unknown health status {other}")),
        None => Err("it answered with something else than a HealthCheckResponse".to_owned()),
    }
}

/// The `status` (number 1, an enum) of a `HealthCheckResponse`; 0 if it is absent. Unknown fields are
/// skipped, as Protocol Buffers requires.
fn serving_status(body: &[u8]) -> Option<u64> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let [0, length @ ..] = prefix else { return None };
    let mut rest = message.get(..u32::from_be_bytes(*length) as usize)?;
    let mut status = 0;
    while !rest.is_empty() {
        let key = take_varint(&mut rest)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut rest)?,
            (_, 0) => _ = take_varint(&mut rest)?,
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn take_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

impl Default for GrpcProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Clone for GrpcProbe<B> {
    fn clone(&self) -> Self {
        Self {
            message: self.message.clone(),
            service: self.service.clone(),
            sender: self.sender.clone(),
        }
    }
}

impl<B> fmt::Debug for GrpcProbe<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcProbe").field("service", &self.service).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, Full};
    use tower::service_fn;

    use super::*;

    #[test]
    fn request_is_framed_protobuf() {
        assert_eq!(request("")[..], [0, 0, 0, 0, 0], "the empty name is left out");
        assert_eq!(request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(
            long[..8],
            [0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02],
            "a length of 300 takes two bytes"
        );
        assert_eq!(long.len(), 8 + 300);
        let long = request(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01], "as does one of 200");
        assert_eq!(request(&"x".repeat(127))[5..8], [0x0a, 0x7f, b'x'], "127 takes one byte");
        assert_eq!(request(&"x".repeat(128))[5..8], [0x0a, 0x80, 0x01]);
    }

    #[tokio::test]
    async fn a_probe_asks_for_its_service_and_succeeds_only_if_that_serves() {
        let backend = |status: u8| {
            service_fn(move |sent: Request<ProbeBody>| async move {
                assert_eq!(sent.method(), Method::POST);
                assert_eq!(sent.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = sent.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(asked, request("shop"));
                let answer = Bytes::from(vec![0, 0, 0, 0, 2, 0x08, status]);
                let mut response = Response::new(Full::new(answer));
                response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
                Ok::<_, Infallible>(response)
            })
        };
        let (probe, id) = (GrpcProbe::new().service("shop"), BackendId::new("a").unwrap());
        assert!(probe.probe(backend(1), &id).await.is_ok());
        let error = probe.probe(backend(2), &id).await.unwrap_err();
        assert_eq!(error.to_string(), "it is NOT_SERVING");
    }

    #[test]
    fn unknown_fields_are_skipped_and_malformed_responses_are_rejected() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 0x08, 1]), Some(1));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0), "an absent status is 0");
        assert_eq!(
            serving_status(&[0, 0, 0, 0, 3, 0x08, 0x81, 1]),
            Some(129),
            "a number of two bytes"
        );
        let unknown =
            [0x12, 2, 9, 9, 0x1d, 1, 2, 3, 4, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x28, 0x80, 1];
        let mut body = vec![0, 0, 0, 0, unknown.len() as u8 + 2];
        body.extend(unknown);
        body.extend([0x08, 2]);
        assert_eq!(serving_status(&body), Some(2), "unknown fields are skipped");
        for bad in [
            &[][..],
            &[0, 0, 0, 0, 2, 0x08],
            &[0, 0, 0, 0, 1, 0x08],
            &[1, 0, 0, 0, 2, 0x08, 1],
            &[0, 0, 0, 0, 2, 0x12, 9],
            &[0, 0, 0, 0, 2, 0x0f, 1],
            &[0, 0, 0, 0, 12, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert_eq!(serving_status(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_answer_but_serving_is_an_error_with_its_cause() {
        let error_of = |status: u16, head: &[(&'static str, &str)], body: &[u8], trailer: &str| {
            let mut answer = Answer {
                status: StatusCode::from_u16(status).unwrap(),
                headers: HeaderMap::new(),
                body: body.to_vec(),
                trailers: HeaderMap::new(),
            };
            for (name, value) in head {
                answer.headers.insert(*name, value.parse().unwrap());
            }
            if !trailer.is_empty() {
                answer.trailers.insert("grpc-status", trailer.parse().unwrap());
            }
            check_answer(&answer, "shop").err().unwrap_or_default()
        };
        let response = |status: u8| [0, 0, 0, 0, 2, 0x08, status];
        assert_eq!(error_of(200, &[], &response(1), "0"), "", "SERVING is a success");
        assert!(error_of(200, &[], &response(2), "0").contains("NOT_SERVING"));
        assert!(error_of(200, &[], &response(3), "0").contains("shop"));
        assert!(error_of(200, &[], &[], "0").contains("something else"));
        assert!(error_of(200, &[], &response(1), "").contains("without a gRPC status"));
        assert!(
            error_of(200, &[], &response(1), "14").contains("status 14"),
            "the status is read from the trailers"
        );
        assert!(error_of(502, &[], &response(1), "0").contains("502"));
        let head = |code| [("grpc-status", code), ("grpc-message", "go away")];
        assert!(error_of(200, &head("12"), &[], "").contains("does not implement"));
        assert!(error_of(200, &head("5"), &[], "").contains("\"shop\""));
        assert_eq!(error_of(200, &head("16"), &[], ""), "it answered gRPC status 16: go away");
    }
}
