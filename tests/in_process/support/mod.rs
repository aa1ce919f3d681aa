//! Backends that a test controls, and a client with a cookie jar.

mod client;
mod layers;
mod node;
mod requests;
mod spans;
mod time;
mod warnings;

pub use client::{Answer, Client, send, spawn};
pub use layers::{First, keys, layer, nodes, plain, refuse, sealed, sealed_session};
pub use node::{Controls, Node, UNGATED};
pub use requests::{Body, get, header_token, post, with_cookie, with_header};
pub use spans::Spans;
pub use time::{Clock, MS, after, health_changes, load, state, until};
pub use warnings::Warnings;
