//! The pin as the client carries it: its format, how it is sealed, and the keys.

mod envelope;
mod key_ring;
mod pin;
mod sealed;

pub(crate) use self::envelope::{EnvelopePayload, is_envelope, open_envelope, seal_envelope};
pub use self::key_ring::{Key, KeyRing};
pub(crate) use self::pin::Pin;
pub(crate) use self::sealed::{Context, Unusable, new_session, open, seal};
