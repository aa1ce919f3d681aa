//! Enums for the options of a cookie.

/// The cookie attribute `SameSite` (RFC 6265bis, section 4.1.2.7). What it does to logins and payments on other sites is
/// described in [`cross_site`](crate::guide::cross_site).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// Sent with requests from the same site and with top-level navigation to it; the default.
    #[default]
    Lax,
    /// Sent with requests from the same site only.
    Strict,
    /// Always sent; only together with [`Secure::Always`].
    None,
    /// No such attribute. Browsers have defaults of their own then.
    Unset,
}

/// When the cookie has the attribute `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Secure {
    /// When the client used https, as far as its [`Peer`](crate::Peer) is trusted. The default.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What happens when a backend sets a cookie of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// The backend's cookie is dropped; the default.
    #[default]
    Replace,
    /// The backend's cookie is sent to the client and the token is not. This allows a backend to end a
    /// session by removing the cookie.
    Preserve,
}
