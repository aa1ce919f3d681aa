//! Requests, and tokens in headers.

use http::{HeaderValue, Method, Request, header};

use super::Answer;

pub type Body = http_body_util::Full<bytes::Bytes>;

pub fn get() -> Request<Body> {
    Request::new(Body::default())
}

pub fn with_cookie(cookie: &str) -> Request<Body> {
    let mut request = get();
    request.headers_mut().insert(header::COOKIE, HeaderValue::from_str(cookie).unwrap());
    request
}

pub fn post() -> Request<Body> {
    let mut request = get();
    *request.method_mut() = Method::POST;
    request
}

pub fn with_header(name: &'static str, value: &str) -> Request<Body> {
    let mut request = get();
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// The token that a response carries in the header `x-sticky`.
pub fn header_token(answer: &Answer) -> Option<String> {
    answer.headers.get("x-sticky").map(|token| token.to_str().unwrap().to_owned())
}
