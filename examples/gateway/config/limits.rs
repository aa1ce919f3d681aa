//! `[limits]`: how much, and how long.

use std::time::Duration;

use serde::Deserialize;

use super::units::{Count, Time};

/// Defines the section as it is read and as it is used. One key is one line: its name, the type that
/// reads and checks it, the type that it is used as, and its default.
macro_rules! limits {
    ($($(#[$doc:meta])* $key:ident: $read:ty => $used:ty = $default:expr;)*) => {
        /// `[limits]` as it is written.
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default, expecting = "a table")]
        pub(crate) struct Section {
            $($(#[$doc])* $key: Option<$read>,)*
        }

        /// `[limits]` with its defaults.
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct Limits {
            $($(#[$doc])* pub(crate) $key: $used,)*
        }

        impl From<Section> for Limits {
            fn from(section: Section) -> Self {
                Self { $($key: section.$key.map_or($default, <$used>::from),)* }
            }
        }
    };
}

limits! {
    /// Open client connections.
    connections: Count<1> => u32 = 10_000;
    /// From the first byte of a request, or from accepting the connection, to the end of the head.
    header_timeout: Time<1> => Duration = Duration::from_secs(5);
    connect_timeout: Time<1> => Duration = Duration::from_secs(1);
    /// The whole wait for a backend to become ready, over all candidates.
    ready_timeout: Time => Duration = Duration::from_secs(1);
    /// Per backend.
    max_waiters: Count => usize = 1024;
    /// From the end of the request to the head of the response.
    response_timeout: Time<1> => Duration = Duration::from_secs(60);
    /// The longest silence of a client within a request's body.
    body_timeout: Time<1> => Duration = Duration::from_secs(30);
}
