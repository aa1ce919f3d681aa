//! `X-Forwarded-Client-Cert`: what backends are told of the client's certificate.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The field, as Envoy has it.
const HEADER: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// The value of the field, or that there is none. What a client says in the field is removed in both cases.
#[derive(Debug, Clone)]
pub(crate) struct ClientCert(Option<HeaderValue>);

impl ClientCert {
    pub(crate) fn new(value: Option<HeaderValue>) -> Self {
        Self(value)
    }

    /// Sets the field, or removes it.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        match &self.0 {
            Some(value) => drop(headers.insert(HEADER, value.clone())),
            None => drop(headers.remove(HEADER)),
        }
    }

    /// Removes variants of the name with underscores, too: many applications fold both into one variable.
    pub(crate) fn apply_strictly(&self, headers: &mut HeaderMap) {
        let is_variant = |name: &&HeaderName| name.as_str().replace('_', "-") == HEADER.as_str();
        let names: Vec<_> = headers.keys().filter(is_variant).cloned().collect();
        for name in names {
            headers.remove(name);
        }
        self.apply(headers);
    }
}
