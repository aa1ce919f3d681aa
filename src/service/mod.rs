//! The public layer and services, and the future and body of a response.

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
