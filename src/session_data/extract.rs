//! Axum extractors for [`Scope`] and [`SessionInfo`].

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{StatusCode, request::Parts},
};

use super::Scope;
use crate::session::SessionInfo;

macro_rules! extractor {
    ($name:ident, $why:literal) => {
        /// Rejects with 500 if the request has none, like other extractors whose layer is missing. Use
        /// `Option` for requests without information from a gateway.
        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = (StatusCode, &'static str);

            async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
                let found = parts.extensions.get::<Self>().cloned();
                found.ok_or((StatusCode::INTERNAL_SERVER_ERROR, $why))
            }
        }

        impl<S: Send + Sync> OptionalFromRequestParts<S> for $name {
            type Rejection = Infallible;

            async fn from_request_parts(
                parts: &mut Parts,
                _: &S,
            ) -> Result<Option<Self>, Infallible> {
                Ok(parts.extensions.get::<Self>().cloned())
            }
        }
    };
}

extractor!(
    Scope,
    "no session scope: is the SessionScope layer added, and are session headers enabled on the gateway?"
);
extractor!(
    SessionInfo,
    "no session information: are session headers or extensions enabled on the gateway?"
);
