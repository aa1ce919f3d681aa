//! What a user composes, and the way of one request: the layer, its services, their future and body.

mod body;
mod finish;
mod future;
mod layer;
mod options;
mod ready;
mod respond;
mod session_service;
mod steps;
mod sticky_service;

pub use self::{
    body::{NoBody, StickyBody},
    future::ResponseFuture,
    layer::StickyLayer,
    respond::{OnError, Propagate, Respond},
    session_service::StickySession,
    sticky_service::{NoInner, StickyService},
};
