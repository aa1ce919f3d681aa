//! The demo: three shops that keep carts in their own memory, or in a store that they share.

mod in_store;
mod own_memory;
mod shop;
mod store;

use std::{io, net::SocketAddr};

use axum::Router;
use tokio::net::TcpListener;
use tower_sticky::{ConfigError, session_data::MemoryStore};

pub(crate) use self::{in_store::ACTION, store::Store};
use crate::{config::file::Backend, fleet::Fleet, say};

const NAMES: [&str; 3] = ["shop-a", "shop-b", "shop-c"];

/// Starts the shops on free ports, on the current runtime, and makes them the backends.
pub(crate) async fn open_shops(
    fleet: &Fleet,
    store: Option<&Store>,
    dashboard: Option<SocketAddr>,
) -> io::Result<()> {
    let carts = all_carts(store).map_err(io::Error::other)?;
    for (name, carts) in NAMES.into_iter().zip(carts) {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let backend = Backend::new(name, format!("http://{}", listener.local_addr()?));
        fleet.add(&backend).map_err(io::Error::other)?;
        let shop = shop::router(carts, dashboard);
        drop(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, shop).await {
                tracing::error!(%error, name, "a shop has closed");
            }
        }));
    }
    Ok(())
}

/// The carts of each shop.
fn all_carts(store: Option<&Store>) -> Result<Vec<Router>, ConfigError> {
    match store {
        None => Ok(NAMES.map(own_memory::carts).into()),
        Some(Store::Memory) => {
            let store = MemoryStore::new();
            NAMES.into_iter().map(|name| in_store::carts(name, store.clone())).collect()
        }
        Some(Store::Redis(url)) => {
            let store = store::redis(url)?;
            NAMES.into_iter().map(|name| in_store::carts(name, store.clone())).collect()
        }
    }
}

/// Prints what to try.
pub(crate) fn print_hints(page: SocketAddr, admin: SocketAddr, store: Option<&Store>) {
    let (keeping, knows) = match store {
        None => ("Each keeps its carts in its own memory.", "does not know the cart"),
        Some(Store::Memory) => {
            ("They share a store of carts, in memory.", "finds the cart in the store")
        }
        Some(Store::Redis(_)) => {
            ("They share a store of carts, in Redis.", "finds the cart in the store")
        }
    };
    say(&format!(
        "
Three demo shops are behind it. {keeping}
  Open http://{page} and add something to the cart: your requests stay with one shop.
  Disable that shop. The session moves to another one, which {knows}:
    curl -X PATCH -d '{{\"mode\":\"disabled\"}}' http://{admin}/backends/shop-a
  The other modes: \"draining\" keeps its sessions and takes no new ones, \"active\" is normal.
  Drain it for half a minute, after which its sessions move:
    curl -X PATCH -d '{{\"mode\":\"draining\",\"deadline\":\"30s\"}}' http://{admin}/backends/shop-a
  See all of this, and do it by clicks, on the dashboard: http://{admin}/
  List the shops, show the totals, and follow the events:
    curl http://{admin}/backends
    curl http://{admin}/stats
    curl -N http://{admin}/events"
    ));
}
