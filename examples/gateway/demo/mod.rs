//! The demo: three shops that keep carts in their own memory, as many applications keep sessions.

mod shop;

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

use crate::{config::file::Backend, fleet::Fleet, say};

/// Starts the shops on free ports, on the current runtime, and makes them the backends.
pub(crate) async fn open_shops(fleet: &Fleet) -> io::Result<()> {
    for name in ["shop-a", "shop-b", "shop-c"] {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let backend = Backend::new(name, format!("http://{}", listener.local_addr()?));
        fleet.add(&backend).map_err(io::Error::other)?;
        let shop = shop::router(name);
        drop(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, shop).await {
                tracing::error!(%error, name, "a shop has closed");
            }
        }));
    }
    Ok(())
}

/// What to try, for whoever has just started it.
pub(crate) fn print_hints(page: SocketAddr, admin: SocketAddr) {
    say(&format!(
        "
Three demo shops are behind it. Each keeps its carts in its own memory.
  Open http://{page} and put something into the cart: you stay with one shop.
  Close that shop, and see the session move to another one, which does not know the cart:
    curl -X PATCH -d '{{\"mode\":\"disabled\"}}' http://{admin}/backends/shop-a
  Let it finish the sessions it has, or open it again: \"draining\", \"active\".
  Give its sessions half a minute, after which they move:
    curl -X PATCH -d '{{\"mode\":\"draining\",\"deadline\":\"30s\"}}' http://{admin}/backends/shop-a
  See the shops, what became of all requests, and what happens while you look:
    curl http://{admin}/backends
    curl http://{admin}/stats
    curl -N http://{admin}/events"
    ));
}
