//! Options that both session stores have.

use std::time::Duration;

/// How long a store remembers a deleted session by default. Longer than a request takes.
const KEEP_DELETED: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
pub(super) struct StoreOptions {
    pub(super) keep_deleted: Duration,
    pub(super) shared_saves: bool,
}

impl StoreOptions {
    pub(super) const DEFAULT: Self = Self { keep_deleted: KEEP_DELETED, shared_saves: false };
}

/// The setters of a store with a field `options` of the type [`StoreOptions`].
macro_rules! store_options {
    () => {
        /// How long a request that has read a session before it was deleted is kept from saving it again;
        /// default 10 minutes. It should be longer than any request takes.
        #[must_use]
        pub const fn keep_deleted(mut self, time: Duration) -> Self {
            self.options.keep_deleted = time;
            self
        }

        /// Whether requests may save a session that they borrow, and requests that have bypassed the
        /// gateway any session; default `false`. The later save wins then. Only for applications whose
        /// backends keep no local copies.
        #[must_use]
        pub const fn shared_saves(mut self, shared: bool) -> Self {
            self.options.shared_saves = shared;
            self
        }
    };
}

pub(super) use store_options;
