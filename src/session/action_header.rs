//! Where the application's word is found: in the response's extensions, or in a header.

use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::session::SessionAction;

/// How a node tells the peer that forwarded a request to it.
const FROM_PEER: HeaderName = HeaderName::from_static("x-sticky-action");

/// The header that backends use, if they may.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActionHeader {
    pub(crate) header: Option<HeaderName>,
}

impl ActionHeader {
    /// Takes the application's word out of a response; `from_peer` when a peer gave it.
    #[inline]
    pub(crate) fn read<B>(
        &self,
        response: &mut Response<B>,
        from_peer: bool,
    ) -> Option<SessionAction> {
        // Most responses say nothing, and are not looked at any further.
        if self.header.is_none() && !from_peer && response.extensions().is_empty() {
            return None;
        }
        self.find(response, from_peer)
    }

    #[inline(never)]
    fn find<B>(&self, response: &mut Response<B>, from_peer: bool) -> Option<SessionAction> {
        let said = response.extensions().get::<SessionAction>().cloned();
        if self.header.is_none() && !from_peer {
            return said;
        }
        let headers = response.headers_mut();
        let by_header = self.header.as_ref().and_then(|name| take(headers, name));
        let by_peer = if from_peer { take(headers, &FROM_PEER) } else { None };
        said.or(by_header).or(by_peer)
    }
}

fn take(headers: &mut HeaderMap, name: &HeaderName) -> Option<SessionAction> {
    let value = headers.remove(name)?;
    let action = SessionAction::from_header(&value);
    if action.is_none() {
        tracing::warn!(header = %name, ?value, "not a word that is known; ignored");
    }
    action
}

/// Passes the application's word on to the peer that settles the pin.
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
    headers.insert(FROM_PEER, value);
}
