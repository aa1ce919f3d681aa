//! The carrier of the application's id, a cookie or a header: reading, replacing and removing it.

use std::fmt;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{Entry, SET_COOKIE},
};

pub(super) use crate::affinity::cookie::parse::Edit;
use crate::{
    affinity::{
        cache_control,
        cookie::{parse, set_cookie},
        response_cookie::ResponseCookie,
    },
    token::EnvelopePayload,
};

#[derive(Debug)]
pub(super) enum Carrier {
    Cookie(Box<parse::Name>, String),
    Header(HeaderName),
}

/// An id in one field of a response.
pub(super) struct ResponseValue<'a> {
    pub(super) id: &'a [u8],
    /// When the cookie expires, in Unix seconds; 0 for a header, and for a cookie that ends with the browser's session.
    pub(super) expires: u32,
    pub(super) attributes: &'a [u8],
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cookie(_, name) => write!(f, "cookie {name}"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

impl Carrier {
    /// Calls `visit` with each value of a request.
    pub(super) fn each(&self, headers: &HeaderMap, visit: impl FnMut(&[u8])) {
        match self {
            Self::Cookie(name, _) => {
                let mut cookies = parse::Cookies::new(headers);
                std::iter::from_fn(|| cookies.next(name)).for_each(visit);
            }
            Self::Header(name) => {
                headers.get_all(name).iter().map(HeaderValue::as_bytes).for_each(visit);
            }
        }
    }

    /// Keeps, removes or replaces each value of a request as `choose` returns.
    pub(super) fn edit_request<'a>(
        &self,
        headers: &mut HeaderMap,
        mut choose: impl FnMut(&[u8]) -> Edit<'a>,
    ) {
        let name = match self {
            Self::Cookie(name, _) => return parse::edit(headers, name, choose),
            Self::Header(name) => name,
        };
        let Entry::Occupied(fields) = headers.entry(name) else {
            return;
        };
        let (key, values) = fields.remove_entry_mult();
        let kept = values.filter_map(|value| match choose(value.as_bytes()) {
            Edit::Keep => Some(value),
            Edit::Remove => None,
            Edit::Replace(id) => HeaderValue::from_bytes(id).ok(),
        });
        for value in kept.collect::<Vec<_>>() {
            headers.append(&key, value);
        }
    }

    /// Whether a response sets or removes the id.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Cookie(_, name) => set_cookie::sets(headers, name),
            Self::Header(name) => headers.contains_key(name),
        }
    }

    /// Replaces each id that a response sets by the value that `wrap` returns; `None` keeps it.
    pub(super) fn edit_response(
        &self,
        headers: &mut HeaderMap,
        now: u64,
        mut wrap: impl FnMut(&ResponseValue<'_>) -> Option<Vec<u8>>,
    ) {
        let field_name = match self {
            Self::Cookie(..) => &SET_COOKIE,
            Self::Header(name) => name,
        };
        let Entry::Occupied(mut fields) = headers.entry(field_name) else {
            return;
        };
        for field in fields.iter_mut() {
            let wrapped = match self {
                Self::Cookie(_, name) => wrap_cookie(field.as_bytes(), name, now, &mut wrap),
                Self::Header(_) if field.is_empty() => None,
                Self::Header(_) => {
                    wrap(&ResponseValue { id: field.as_bytes(), expires: 0, attributes: b"" })
                }
            };
            if let Some(wrapped) = wrapped.and_then(|bytes| HeaderValue::from_bytes(&bytes).ok()) {
                *field = wrapped;
            }
        }
    }

    /// Sets the id in a response in which the application does not set it. Returns whether it was set.
    pub(super) fn write(
        &self,
        sealed: &[u8],
        payload: &EnvelopePayload,
        now: u64,
        headers: &mut HeaderMap,
    ) -> bool {
        let name = match self {
            Self::Cookie(_, name) => name,
            Self::Header(name) => {
                let value = HeaderValue::from_bytes(sealed);
                return value.is_ok_and(|value| {
                    headers.insert(name.clone(), value);
                    true
                });
            }
        };
        let max_age = match payload.expires {
            0 => String::new(),
            // The cookie has expired. A client whose clock is late may still have it, so it is not removed.
            expires if u64::from(expires) <= now => return false,
            expires => format!("; Max-Age={}", u64::from(expires) - now),
        };
        let field =
            [name.as_bytes(), b"=", sealed, &payload.attributes, max_age.as_bytes()].concat();
        HeaderValue::from_bytes(&field).is_ok_and(|field| {
            headers.append(SET_COOKIE, field);
            true
        })
    }

    /// Removes the id from the client, unless the application does so itself.
    pub(super) fn clear(&self, attributes: Option<&[u8]>, headers: &mut HeaderMap) {
        let name = match self {
            Self::Cookie(_, name) => name,
            Self::Header(name) => {
                headers.insert(name.clone(), HeaderValue::from_static(""));
                return;
            }
        };
        // Any time does: a cookie that the application removes has an expiry in the past.
        let is_removed = headers.get_all(SET_COOKIE).iter().any(|field| {
            let cookie = ResponseCookie::of(field.as_bytes(), name);
            cookie.is_some_and(|cookie| cookie.id(1).is_none())
        });
        if is_removed {
            return;
        }
        set_cookie::drop_named(headers, name);
        let attributes = attributes.unwrap_or(b"; Path=/");
        let field = [name.as_bytes(), b"=", attributes, b"; Max-Age=0"].concat();
        if let Ok(field) = HeaderValue::from_bytes(&field) {
            headers.append(SET_COOKIE, field);
        }
    }

    pub(super) fn make_private(&self, headers: &mut HeaderMap) {
        let field = match self {
            Self::Cookie(..) => SET_COOKIE.as_str(),
            Self::Header(name) => name.as_str(),
        };
        cache_control::make_private(headers, field);
    }
}

fn wrap_cookie(
    field: &[u8],
    name: &str,
    now: u64,
    wrap: &mut impl FnMut(&ResponseValue<'_>) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let cookie = ResponseCookie::of(field, name)?;
    let id = cookie.id(now)?;
    let expires = cookie.expires(now).unwrap_or(0);
    let wrapped = wrap(&ResponseValue {
        id,
        expires: u32::try_from(expires).unwrap_or(u32::MAX),
        attributes: &cookie.lasting_attributes(),
    })?;
    Some(cookie.with_value(&wrapped))
}
