//! Tokens, the form in which clients carry pins: their format, sealing and keys.

mod envelope;
mod key_ring;
mod pin;
mod route;
mod sealed;

pub(crate) use self::envelope::{EnvelopePayload, is_envelope, open_envelope, seal_envelope};
pub use self::key_ring::{Key, KeyRing};
pub(crate) use self::pin::Pin;
pub(crate) use self::route::{ROUTE_LEN, RouteCode, RouteKeys};
pub(crate) use self::sealed::{Context, Unusable, new_session, open, seal};
