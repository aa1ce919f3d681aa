//! The scope and the information in it, as extractors of Axum.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{StatusCode, request::Parts},
};

use super::Scope;
use crate::session::SessionInfo;

macro_rules! extractor {
    ($name:ident, $why:literal) => {
        /// Rejects with 500 when there is none, as with every extractor whose layer is missing; wrap it
        /// in an `Option` where requests come that the gateway says nothing of.
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
    "no session scope: is the SessionScope layer there, and does the gateway say it?"
);
extractor!(SessionInfo, "no session information: does the gateway say it?");
