//! Session data that follows a session: stores for
//! [tower-sessions](https://docs.rs/tower-sessions), behind a gateway of this crate.
//!
//! A session stays on its backend, so the backend may keep its data at hand. Now and then a session
//! moves all the same, because its backend has failed or drains. Then two things go wrong with a plain
//! cache in front of a shared store: the backend that gets the session, or gets it back, goes by an old
//! copy, and a slow request on the one that lost it erases what has been written since. Each session
//! has an [epoch](crate::SessionInfo::epoch) that grows with each move, and both can be told by it:
//!
//! - [`SessionScope`] is a layer that hands what the gateway says of a session to handlers and stores;
//! - [`FencedCache`] keeps copies in front of any store, each good for one epoch only;
//! - [`MemoryStore`] and [`RedisStore`] have a fence: they refuse a save of an older epoch.
//!
//! # The rules of the fence
//!
//! | a request | may save when |
//! |---|---|
//! | of a newer epoch | always; nobody of an older one may from then on, also when it has only read so far |
//! | of the same epoch | the session is its backend's: the first that used it in this epoch |
//! | of an older epoch | it has read what is stored, and no other backend has the session: it goes on in the epoch that it found |
//! | that [borrows](crate::Verdict::Borrowed) the session | its home has not used it in this epoch, and nobody has saved it since it was read; or saves are [shared](MemoryStore::shared_saves) |
//! | without a scope or an epoch | the session was never used through a gateway, or saves are shared |
//!
//! So what a request saves is never built on something older than what it replaces, but for what
//! [is not promised](#what-is-not-promised). A session may always be deleted, by anyone: a logout holds.
//! What was deleted cannot be saved again. What is refused changes nothing, and says [`Refused`].
//!
//! # Where gateways do not agree
//!
//! With [`affinity::Key`](crate::affinity::Key) and its like no token carries an epoch from one gateway
//! to another: each of them [counts](crate::SessionInfo::is_keyed) by what it has seen of its backends,
//! and by its own clock. While a session's backend is down the next in rank borrows the session, in a
//! newer epoch, and when it is back the epoch is newer again; so for one gateway the table holds. With
//! tokens, a gateway whose clock is behind may say an older epoch for a session that it has just placed
//! anew. So there is one more rule: a request where a key decides, or which is the first on a new pin,
//! may save whatever its epoch and backend are, if it has read what is stored and nobody has saved since.
//! From then on the session is nobody's, and each save needs that, until a newer epoch comes. Gateways
//! that do not agree, for a moment or for good, erase nothing and lock nobody out. It costs a refusal
//! where a copy was out of date: the client tries again.
//!
//! # What is not promised
//!
//! What a backend had not saved when it failed is lost: tower-sessions saves after the handler and
//! before the answer, so what was acknowledged is there. Two requests of one session at one backend at
//! the same time are not kept apart: the later save wins, as with tower-sessions alone. A request that
//! gives a session another id (`cycle_id`) deletes the one and creates the other with what it has read,
//! and that the two belong together no store can see: done by a slow request of before a move it takes
//! the session back to then. While gateways do not agree, a [copy](FencedCache) may be read that is out
//! of date.

mod cache;
#[cfg(feature = "axum")]
mod extract;
mod fence;
mod layer;
mod memory;
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
