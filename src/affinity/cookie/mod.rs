//! The token in a cookie, and reading and writing cookie headers.

mod affinity;
pub(crate) mod options;
pub(crate) mod parse;
pub(crate) mod set_cookie;

pub use self::affinity::Cookie;
