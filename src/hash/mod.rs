//! Affinity by hash: a key of the request chooses the backend, without a table of sessions.
//!
//! Every gateway must choose the same backend for the same key, whatever its platform, its
//! version and the order in which its backends joined. So keys are hashed as explicit bytes
//! ([`KeyHasher`]), backends are known by the tags of their ids, and all arithmetic is in integers.
//!
//! [`Ranking`] is the default; [`Maglev`] is faster for thousands of backends. [`BoundedLoad`] limits the
//! load of each backend.

mod bounded_load;
#[cfg(test)]
mod golden;
mod key_hasher;
mod log2;
mod maglev;
mod mixing;
mod rendezvous;

pub(crate) use self::mixing::mix;
#[cfg(test)]
pub(crate) use self::mixing::testing;
pub(crate) use self::rendezvous::first_of;
pub(crate) use self::{bounded_load::BoundedLoad, rendezvous::signature};
pub(crate) use self::{
    key_hasher::KeyHasher,
    maglev::{Maglev, Slots},
    rendezvous::Ranking,
};
