//! The pin in a cookie.

mod affinity;
pub(crate) mod options;
pub(crate) mod parse;
pub(crate) mod set_cookie;

pub use self::affinity::Cookie;
