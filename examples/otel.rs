//! Traces in the format of OpenTelemetry: a sticky service whose spans are exported, here to the standard output.
//!
//! ```text
//! cargo run --example otel
//! ```
//!
//! It starts two backends, sends three requests of one session, whose backend is disabled after the first, and prints
//! the spans of all three: the request with the backend, the outcome and the reason, its attempts, and the exchanges
//! with the backends.

use std::{error::Error, net::SocketAddr};

use axum::{Router, body::Body, routing::get};
use http::{HeaderValue, Request, header};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::net::TcpListener;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::{
    request_id::{MakeRequestUuid, SetRequestIdLayer},
    trace::TraceLayer,
};
use tower_sticky::{
    Backends, KeyRing, Mode, StickyLayer,
    affinity::Cookie,
    proxy::Upstream,
    trace::{RecordAnswer, RequestSpan},
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(opentelemetry_stdout::SpanExporter::default())
        .build();
    // The spans of attempts and exchanges are at level debug.
    tracing_subscriber::registry()
        .with(EnvFilter::new("off,tower_sticky=debug"))
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("otel-example")))
        .init();

    let backends = Backends::new();
    for id in ["a", "b"] {
        backends.insert(id, Upstream::new(&format!("http://{}", start_backend(id).await?))?)?;
    }
    let sticky =
        StickyLayer::new(backends.clone(), Cookie::sealed("SERVER_ID", KeyRing::generate()?));
    let trace = TraceLayer::new_for_http()
        .make_span_with(RequestSpan::new())
        .on_request(())
        .on_response(RecordAnswer::new());
    let service = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(trace)
        .service(sticky.into_service());

    let mut cookie = None;
    for number in 1..=3 {
        let mut request = Request::get("/cart").header(header::HOST, "shop.example");
        if let Some(cookie) = &cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let response = service.clone().oneshot(request.body(Body::empty())?).await?;
        cookie = set_cookie(response.headers().get(header::SET_COOKIE)).or(cookie);
        let name = axum::body::to_bytes(Body::new(response.into_body()), 1024).await?;
        let name = String::from_utf8_lossy(&name);
        eprintln!("request {number} was answered by {name}");
        if number == 1 {
            backends.set_mode(&name, Mode::Disabled)?;
        }
    }
    provider.shutdown()?;
    Ok(())
}

/// Starts a backend that answers with its id.
async fn start_backend(id: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let router = Router::new().route("/cart", get(move || async move { id }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            eprintln!("backend {id}: {error}");
        }
    });
    Ok(addr)
}

/// The pair of a cookie that a response sets.
fn set_cookie(field: Option<&HeaderValue>) -> Option<String> {
    let (pair, _) = field?.to_str().ok()?.split_once(';')?;
    Some(pair.to_owned())
}
