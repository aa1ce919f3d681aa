//! A customer of a shop: a client of the gateway that keeps cookies, as a browser does.

use std::error::Error;

use axum::{
    body::{Body, to_bytes},
    http::{Request, header},
};
use tower::ServiceExt;
use tower_sticky::{NoInner, StickyService, proxy::Upstream};

pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// A client with its cookies: the gateway's, and the shop's if it has one.
pub struct Customer {
    gateway: StickyService<Upstream, NoInner>,
    cookies: Vec<(String, String)>,
}

impl Customer {
    pub fn new(gateway: StickyService<Upstream, NoInner>) -> Self {
        Self { gateway, cookies: Vec::new() }
    }

    /// Sends a request, and returns the body of a successful response.
    pub async fn send(&mut self, method: &str, path: &str) -> Fallible<String> {
        let cookies: Vec<_> =
            self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "shop.example")
            .header(header::COOKIE, cookies.join("; "))
            .body(Body::empty())?;
        let response = self.gateway.clone().oneshot(request).await?;
        for cookie in response.headers().get_all(header::SET_COOKIE) {
            let pair = cookie.to_str()?.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.cookies.retain(|(known, _)| known != name);
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), 1 << 20).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() { Ok(text) } else { Err(format!("{status}: {text}").into()) }
    }
}
