//! Stores for the session data of [tower-sessions](https://docs.rs/tower-sessions), behind a gateway of
//! this crate.
//!
//! A session stays on its backend, so the backend can cache its data. Sometimes a session moves, because
//! its backend has failed or drains. Two things can then go wrong with a plain cache in front of a shared
//! store: the backend to which the session moves, or returns, uses an outdated copy, and a slow request on
//! the previous backend overwrites newer data. Each session has an [epoch](crate::SessionInfo::epoch) that
//! grows with each move, by which both are detected:
//!
//! - [`SessionScope`] is a layer that passes the gateway's information about a session to handlers and
//!   stores.
//! - [`FencedCache`] keeps copies in front of any store, each of which is valid for one epoch.
//! - [`MemoryStore`] and [`RedisStore`] are fenced: they refuse to save data of an older epoch (see
//!   Kleppmann, "How to do distributed locking", 2016, on fencing tokens).
//!
//! # Rules of the fence
//!
//! | a request | may save if |
//! |---|---|
//! | of a newer epoch | always; requests of older epochs may not save from then on, even if this request has only read the session so far |
//! | of the same epoch | its backend owns the session, that is, was the first to use it in this epoch |
//! | of an older epoch | it has read the stored data, and no other backend owns the session: it continues in the stored epoch |
//! | that [borrows](crate::Verdict::Borrowed) the session | the session's own backend has not used it in this epoch, and it was not saved since this request has read it; or saves are [shared](MemoryStore::shared_saves) |
//! | without a scope or an epoch | the session was never used through a gateway, or saves are shared |
//!
//! So a save never replaces data that is newer than the data it is based on, with the exceptions in
//! [Limitations](#limitations). Every request may delete a session, so a logout always succeeds. A deleted
//! session cannot be saved again. A refused save changes nothing, and its error is [`Refused`].
//!
//! # Gateways that disagree
//!
//! With affinities like [`affinity::Key`](crate::affinity::Key) no token carries the epoch from one gateway
//! to another. Each gateway [counts epochs](crate::SessionInfo::is_keyed) by the changes of its backends
//! that it has observed, and by its own clock. While the backend of a session is down, the next backend in
//! rank borrows the session in a newer epoch, and when it is available again the epoch is newer once more,
//! so the table above holds for one gateway. With tokens, a gateway whose clock is late may use an older
//! epoch for a session that it has just assigned.
//!
//! Therefore a request with a keyed affinity, and the first request with a new pin, may save whatever its
//! epoch and backend are, if it has read the stored data and the session was not saved since. The session
//! then has no owner, and the same condition applies to each save until a newer epoch begins. So gateways
//! that disagree, temporarily or permanently, neither overwrite newer data nor lock out a session's
//! backend. A save that is based on an outdated copy is refused, and the client has to retry.
//!
//! # Limitations
//!
//! - Data that a backend had not saved when it failed is lost. tower-sessions saves after the handler and
//!   before the response, so acknowledged changes are stored.
//! - Concurrent requests of one session on one backend are not isolated: the later save wins, as with
//!   tower-sessions alone.
//! - A request that changes a session's id (`cycle_id`) deletes one record and creates another with the
//!   data that it has read. A store cannot see that the records belong together, so a slow request from
//!   before a move can restore the data of that time.
//! - While gateways disagree, an outdated [copy](FencedCache) may be read.

mod cache;
#[cfg(feature = "axum")]
mod extract;
mod fence;
mod layer;
mod memory;
mod options;
#[cfg(feature = "redis")]
mod redis;
mod refused;
mod scope;

#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub use self::{
    cache::FencedCache,
    layer::{ScopedFuture, ScopedService, SessionScope},
    memory::MemoryStore,
    refused::Refused,
    scope::Scope,
};
