//! What a proxy changes in the head of a message: hop-by-hop fields (RFC 9110, section 7.6.1), framing
//! (RFC 9112, section 6) and upgrades (RFC 9110, section 7.8).

mod common;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub(super) use self::{
    common::{Added, Length, interim, is_ours, wants_upgrade},
    request::{Hop, request},
    response::response,
};
