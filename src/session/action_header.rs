//! Reads the application's `SessionAction` from the response's extensions or from a header.

use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::session::SessionAction;

/// The header in which a node sends the action to the peer that forwarded the request.
const PEER_ACTION: HeaderName = HeaderName::from_static("x-sticky-action");

/// The response header in which backends may set an action, if one is configured.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActionHeader {
    pub(crate) header: Option<HeaderName>,
}

impl ActionHeader {
    /// Removes the action from a response. `from_peer` when the response is from a peer.
    #[inline]
    pub(crate) fn read<B>(
        &self,
        response: &mut Response<B>,
        from_peer: bool,
    ) -> Option<SessionAction> {
        // Most responses have no extensions, and need no further checks.
        if self.header.is_none() && !from_peer && response.extensions().is_empty() {
            return None;
        }
        self.find(response, from_peer)
    }

    #[inline(never)]
    fn find<B>(&self, response: &mut Response<B>, from_peer: bool) -> Option<SessionAction> {
        let from_extensions = response.extensions().get::<SessionAction>().cloned();
        if self.header.is_none() && !from_peer {
            return from_extensions;
        }
        let headers = response.headers_mut();
        let by_header = self.header.as_ref().and_then(|name| take(headers, name));
        let by_peer = if from_peer { take(headers, &PEER_ACTION) } else { None };
        from_extensions.or(by_header).or(by_peer)
    }
}

fn take(headers: &mut HeaderMap, name: &HeaderName) -> Option<SessionAction> {
    let value = headers.remove(name)?;
    let action = SessionAction::from_header(&value);
    if action.is_none() {
        tracing::warn!(header = %name, ?value, "unknown session action; ignored");
    }
    action
}

/// Sends the action to the peer that forwarded the request, which owns the pin.
pub(crate) fn tell(action: &SessionAction, headers: &mut HeaderMap) {
    let value = match action {
        SessionAction::End => HeaderValue::from_static("end"),
        SessionAction::Pin => HeaderValue::from_static("pin"),
        SessionAction::NoPin => HeaderValue::from_static("no-pin"),
        SessionAction::Move(id) => match HeaderValue::try_from(format!("move {id}")) {
            Ok(value) => value,
            Err(_) => return,
        },
    };
    headers.insert(PEER_ACTION, value);
}
