//! `SessionAction`, set on a response by the application, and `Preference`, set on a request by the caller.

use http::HeaderValue;

use crate::{error::ConfigError, id::BackendId};

/// What to do with the session of a response. The application sets it in the response's extensions when
/// it runs in this process, or else in the [configured](crate::StickyLayer::application_header) response
/// header, which is removed before the response is sent to the client.
///
/// # Example
///
/// ```
/// use http::Response;
/// use tower_sticky::SessionAction;
///
/// /// A handler behind the layer: the next login starts a new session, on any backend.
/// async fn logout() -> Response<String> {
///     let mut response = Response::new("bye".to_owned());
///     response.extensions_mut().insert(SessionAction::End);
///     response
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionAction {
    /// The session has ended (logout): the token is removed from the client. Header: `end`.
    End,
    /// The session is pinned to this backend, also when the request was borrowed or bypassed the pin.
    /// Header: `pin`.
    Pin,
    /// This response does not begin a session. Header: `no-pin`.
    NoPin,
    /// The session continues on another backend. Header: `move <id>`.
    Move(BackendId),
}

impl SessionAction {
    /// Reads the header form.
    pub(crate) fn from_header(value: &HeaderValue) -> Option<Self> {
        match value.to_str().ok()?.trim() {
            "end" => Some(Self::End),
            "pin" => Some(Self::Pin),
            "no-pin" => Some(Self::NoPin),
            other => {
                let id = other.strip_prefix("move ")?;
                BackendId::new(id.trim()).ok().map(Self::Move)
            }
        }
    }
}

/// How one request is to be routed, in the request's extensions.
///
/// It is for code in front of the layer, for example an operator's tool that tests one backend. It is
/// never read from the network.
///
/// # Example
///
/// ```
/// use tower_sticky::Preference;
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Preference::backend("a")?);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    pub(crate) backend: Option<BackendId>,
    pub(crate) bypass: bool,
    pub(crate) strict: Option<bool>,
}

impl Preference {
    const NONE: Self = Self { backend: None, bypass: false, strict: None };

    /// The request neither reads nor writes a pin; the strategy chooses.
    pub const fn bypass() -> Self {
        Self { bypass: true, ..Self::NONE }
    }

    /// The request goes to this backend and to no other, whatever its pin is, also when the
    /// backend is draining. The pin does not change.
    ///
    /// # Errors
    ///
    /// When `id` is not a [`BackendId`].
    pub fn backend(id: &str) -> Result<Self, ConfigError> {
        Ok(Self { backend: Some(BackendId::new(id)?), ..Self::NONE })
    }

    /// Whether the pin of the request is used.
    pub(crate) fn reads(&self) -> bool {
        !self.bypass && self.backend.is_none()
    }

    /// Whether the request is [strict](crate::StickyLayer::strict), which overrides the layer's setting.
    pub const fn strict(strict: bool) -> Self {
        Self { strict: Some(strict), ..Self::NONE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_form_is_read() {
        let read = |text: &'static str| SessionAction::from_header(&HeaderValue::from_static(text));
        assert_eq!(read("end"), Some(SessionAction::End));
        assert_eq!(read(" pin "), Some(SessionAction::Pin));
        assert_eq!(read("no-pin"), Some(SessionAction::NoPin));
        assert_eq!(read("move b"), Some(SessionAction::Move(BackendId::new("b").unwrap())));
        for other in ["", "END", "move", "move ", "move a b", "stop"] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
