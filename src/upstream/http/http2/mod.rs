//! The HTTP/2 connections of a backend.

mod connection;
mod shared;

pub(super) use self::{
    connection::{Http2, Options, Pings, StreamPermit},
    shared::{Dialed, Shared},
};
