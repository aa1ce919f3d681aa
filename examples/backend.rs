//! A server to run behind the gateway. It responds with its name.
//!
//! ```text
//! cargo run --example backend -- a 127.0.0.1:9001
//! ```
//!
//! It prints the address it listens on, and `got N` when the head of a request with `x-number: N` has
//! arrived. On SIGTERM it stops accepting, finishes the requests in flight, and exits.

#![allow(missing_docs)]

use std::{
    error::Error,
    io::{self, Write},
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse, Response},
    serve::ListenerExt,
};
use http_body_util::BodyExt;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(address)) = (args.next(), args.next()) else {
        return Err("expected a name and an address, such as: a 127.0.0.1:9001".into());
    };
    let mut term = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(address).await?;
    say(&format!("listening on http://{}", listener.local_addr()?));
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let app = Router::new().fallback(async move |request| answer(&name, request).await);
    let stop = async move {
        term.recv().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    Ok(())
}

async fn answer(name: &str, request: Request<Body>) -> Response {
    if let Some(number) = request.headers().get("x-number").and_then(|n| n.to_str().ok()) {
        say(&format!("got {number}"));
    }
    let length = request.into_body().collect().await.map(|body| body.to_bytes().len());
    match length {
        Ok(length) => {
            let text = format!("{name} got {length} bytes\n");
            ([("x-server", name.to_owned())], text).into_response()
        }
        // The client has disconnected.
        Err(_) => http::StatusCode::BAD_REQUEST.into_response(),
    }
}

/// Prints a line at once. A closed standard output is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
