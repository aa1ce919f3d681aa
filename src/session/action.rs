//! The word of the application, and of the caller, on one request.

use http::HeaderValue;

use crate::{error::ConfigError, id::BackendId};

/// What the application says of a session, with its answer: in the response's extensions when it runs
/// in this process, or in a response header that is
/// [named](crate::StickyLayer::application_header) and taken out before the client sees it.
///
/// # Example
///
/// ```
/// use http::Response;
/// use tower_sticky::SessionAction;
///
/// /// A handler behind the layer: the next login starts a new session, anywhere.
/// async fn logout() -> Response<String> {
///     let mut response = Response::new("bye".to_owned());
///     response.extensions_mut().insert(SessionAction::End);
///     response
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionAction {
    /// The session has ended (logout): the client's token is taken away. Header: `end`.
    End,
    /// The session is here from now on, also where it would have been borrowed only, or passed by.
    /// Header: `pin`.
    Pin,
    /// This answer does not begin a session. Header: `no-pin`.
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

/// What the caller wants of one request, in the request's extensions.
///
/// It is for code in front of the layer, for example an operator's tool that tests one backend; it
/// never comes from the network.
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

    /// The request goes to this backend and to no other, whatever its pin says and also when the
    /// backend drains; the pin stays as it is.
    ///
    /// # Errors
    ///
    /// When `id` is not a [`BackendId`].
    pub fn backend(id: &str) -> Result<Self, ConfigError> {
        Ok(Self { backend: Some(BackendId::new(id)?), ..Self::NONE })
    }

    /// Whether a pin of the request counts.
    pub(crate) fn reads(&self) -> bool {
        !self.bypass && self.backend.is_none()
    }

    /// Whether the request is [strict](crate::StickyLayer::strict), instead of what the layer says.
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
