//! The choices of a cookie.

/// The cookie attribute `SameSite` (RFC 6265bis, section 4.1.2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// Sent with requests from our own site and with top-level navigation to it; the default.
    #[default]
    Lax,
    /// Sent with requests from our own site only.
    Strict,
    /// Always sent; only together with [`Secure::Always`].
    None,
}

/// When the cookie has the attribute `Secure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Secure {
    /// When the request came over https, by a trusted word: see [`Peer`](crate::Peer). The default.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What happens when a backend sets a cookie of our cookie's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conflict {
    /// The backend's is dropped; the default.
    #[default]
    Replace,
    /// The backend's goes to the client and ours is not sent. A backend can so end a session, by
    /// removing the cookie.
    Preserve,
}
