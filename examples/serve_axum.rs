//! An Axum application behind the server of this crate, which limits connections, requests and time.
//!
//! ```text
//! cargo run --release --example serve_axum
//! curl http://127.0.0.1:8080/
//! ```

use std::{error::Error, net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, routing::get};
use tower_sticky::serve::{Limits, Listener, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let app: Router = Router::new().route("/", get(greet));
    let server = Server::new(app)
        .listener(Listener::bind("127.0.0.1:8080").await?)
        .limits(Limits::new().connections(1_000).header_timeout(Duration::from_secs(10)))
        .connect_info(true)
        .start()?;
    println!("listening on http://{}", server.local_addrs()[0]);
    tokio::signal::ctrl_c().await?;
    server.shutdown(Duration::from_secs(30)).await;
    Ok(())
}

async fn greet(ConnectInfo(client): ConnectInfo<SocketAddr>) -> String {
    format!("Hello, {client}!\n")
}
