//! The cookies of one name in a request.

use http::HeaderMap;

use crate::affinity::parse::{self, Cookies, Edit, Name};

/// The values of all cookies of this name.
pub fn cookie_values(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    let (name, mut cookies) = (Name::new(name), Cookies::new(headers));
    std::iter::from_fn(|| cookies.next(&name).map(<[u8]>::to_vec)).collect()
}

/// Removes all cookies of this name.
pub fn remove_cookies(headers: &mut HeaderMap, name: &str) {
    parse::remove(headers, &Name::new(name));
}

/// Edits the cookies of this name: `choose` returns a new value, the same value to keep the cookie, or `None` to
/// remove it.
pub fn edit_cookies(
    headers: &mut HeaderMap,
    name: &str,
    mut choose: impl FnMut(&[u8]) -> Option<&'static [u8]>,
) {
    parse::edit(headers, &Name::new(name), |value| match choose(value) {
        None => Edit::Remove,
        Some(new) if new == value => Edit::Keep,
        Some(new) => Edit::Replace(new),
    });
}
