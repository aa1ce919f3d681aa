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
//! | of an older epoch | never |
//! | that [borrows](crate::Verdict::Borrowed) the session | its home has not used it in this epoch, or saves are [shared](MemoryStore::shared_saves) |
//! | without a scope or an epoch | the session was never used through a gateway, or saves are shared |
//!
//! A session may always be deleted, by anyone: a logout holds. What was deleted cannot be saved again.
//! What is refused changes nothing, and says [`Refused`].
//!
//! Where a key decides ([`affinity::Key`](crate::affinity::Key)), a session whose backend fails is
//! borrowed by the next. Such sessions want [shared](MemoryStore::shared_saves) saves, and no cache.
//!
//! # What is not promised
//!
//! What a backend had not saved when it failed is lost: tower-sessions saves after the handler and
//! before the answer, so what was acknowledged is there. Two requests of one session at one backend at
//! the same time are not kept apart: the later save wins, as with tower-sessions alone.

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
