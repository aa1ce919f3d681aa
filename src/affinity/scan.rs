//! Finding and removing one cookie in the `Cookie` header, on bytes.
//!
//! After RFC 6265, section 5.4, and what user agents send in fact: pairs separated by `;`, optional
//! white space (SP and HTAB) around name and value, one pair of quotes around a value. Nothing is
//! decoded. A name matches exactly or not at all, and a byte that is not ASCII in another cookie
//! does no harm.

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, Entry, ValueIter},
};
use memchr::memchr;

/// A walk over all cookies of a request, over all its `Cookie` fields (HTTP/2 splits them).
pub(super) struct Cookies<'a> {
    fields: ValueIter<'a, HeaderValue>,
    pairs: Pairs<'a>,
    /// Whether there is more than one field, or more than one pair.
    several: bool,
}

impl<'a> Cookies<'a> {
    #[inline]
    pub(super) fn new(headers: &'a HeaderMap) -> Self {
        let mut fields = headers.get_all(COOKIE).into_iter();
        let first = fields.next();
        let several = fields.size_hint().1 != Some(0);
        Self { fields, pairs: Pairs { rest: first.map(HeaderValue::as_bytes) }, several }
    }

    /// The value of the next cookie named `name`.
    #[inline]
    pub(super) fn next_named(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        loop {
            while let Some(pair) = self.pairs.next() {
                self.several |= self.pairs.rest.is_some();
                if let Some(value) = value_of(pair, name) {
                    return Some(value);
                }
            }
            self.pairs = pairs(self.fields.next()?.as_bytes());
        }
    }

    /// Whether the cookie just found is the only one: then removing it removes the header.
    #[inline]
    pub(super) fn is_sole(&self) -> bool {
        !self.several
    }
}

/// Removes every cookie named `name` and leaves all other bytes as they are. A field that would
/// become empty goes.
pub(super) fn remove(headers: &mut HeaderMap, name: &[u8]) {
    let Entry::Occupied(mut fields) = headers.entry(COOKIE) else {
        return;
    };
    let mut left_over = false;
    for field in fields.iter_mut() {
        if !pairs(field.as_bytes()).any(|pair| value_of(pair, name).is_some()) {
            continue;
        }
        *field = without(field, name);
        left_over |= field.is_empty();
    }
    if !left_over {
        return;
    }
    if fields.iter().all(HeaderValue::is_empty) {
        fields.remove_entry_mult();
        return;
    }
    let (key, values) = fields.remove_entry_mult();
    let kept: Vec<_> = values.filter(|field| !field.is_empty()).collect();
    for field in kept {
        headers.append(&key, field);
    }
}

fn without(field: &HeaderValue, name: &[u8]) -> HeaderValue {
    let bytes = field.as_bytes();
    let others = pairs(bytes).filter(|pair| value_of(pair, name).is_none());
    if others.clone().all(|pair| trim(pair).is_empty()) {
        return HeaderValue::from_static("");
    }
    let mut kept = Vec::with_capacity(bytes.len());
    for (i, pair) in others.enumerate() {
        // Each pair brings the white space before it along; at the front there is none to keep.
        if i > 0 {
            kept.push(b';');
            kept.extend_from_slice(pair);
        } else {
            kept.extend_from_slice(trim_start(pair));
        }
    }
    // Bytes of a header value, put together with `;`, are a header value.
    HeaderValue::from_bytes(&kept).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[derive(Clone)]
struct Pairs<'a> {
    rest: Option<&'a [u8]>,
}

/// The parts between the semicolons, as they are.
fn pairs(field: &[u8]) -> Pairs<'_> {
    Pairs { rest: Some(field) }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match memchr(b';', rest) {
            Some(end) => {
                self.rest = Some(&rest[end + 1..]);
                Some(&rest[..end])
            }
            None => {
                self.rest = None;
                Some(rest)
            }
        }
    }
}

/// The value of a pair, if its name is `name`.
#[inline]
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = trim_start(pair).strip_prefix(name)?;
    let value = trim(trim_start(rest).strip_prefix(b"=")?);
    Some(match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    })
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim(bytes: &[u8]) -> &[u8] {
    let mut bytes = trim_start(bytes);
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[&[u8]]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for field in fields {
            map.append(COOKIE, HeaderValue::from_bytes(field).unwrap());
        }
        map
    }

    fn found(fields: &[&[u8]]) -> Vec<Vec<u8>> {
        values(&headers(fields), b"sid").map(<[u8]>::to_vec).collect()
    }

    fn stripped(fields: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut map = headers(fields);
        remove(&mut map, b"sid");
        map.get_all(COOKIE).iter().map(|v| v.as_bytes().to_vec()).collect()
    }

    #[test]
    fn names_match_exactly_or_not_at_all() {
        for other in [
            &b"SID=a"[..],
            b"xsid=a",
            b"sidx=a",
            b"a=sid=b",
            b"$sid=a",
            b"%73id=a",
            b"s id=a",
            b"sid",
            b"\"sid\"=a",
            b"\xa0sid=a",
            b"",
            b";;;",
            b"=a",
        ] {
            assert!(found(&[other]).is_empty(), "{:?}", String::from_utf8_lossy(other));
            assert_eq!(stripped(&[other]), [other], "nothing of ours, nothing changes");
        }
    }

    #[test]
    fn values_are_found_however_they_are_written() {
        for (field, value) in [
            (&b"sid=a"[..], &b"a"[..]),
            (b"x=1; sid=a; y=2", b"a"),
            (b"x=1;sid=a;y=2", b"a"),
            (b"x=1;\t sid \t=  a\t ;y=2", b"a"),
            (b"sid=\"a\"", b"a"),
            (b"sid=\"\"a\"\"", b"\"a\""),
            (b"sid=\"", b"\""),
            (b"sid=a=b", b"a=b"),
            (b"sid=", b""),
            (b"x=\xff\xfe; sid=a", b"a"),
        ] {
            assert_eq!(found(&[field]), [value], "{:?}", String::from_utf8_lossy(field));
        }
        assert_eq!(found(&[b"sid=a; sid=b", b"x=1", b"sid=c"]), [b"a", b"b", b"c"]);
    }

    #[test]
    fn a_cookie_alone_is_known_to_be_alone() {
        let sole = |fields: &[&[u8]]| {
            let headers = headers(fields);
            let mut cookies = Cookies::new(&headers);
            cookies.next_named(b"sid").map(|_| cookies.is_sole())
        };
        assert_eq!(sole(&[b"sid=a"]), Some(true));
        assert_eq!(sole(&[b"x=1"]), None);
        for several in [&[&b"sid=a; x=1"[..]][..], &[b"x=1; sid=a"], &[b"sid=a", b"x=1"]] {
            assert_eq!(sole(several), Some(false), "{several:?}");
        }
    }

    #[test]
    fn only_ours_is_removed_and_the_rest_stays_byte_for_byte() {
        for (before, after) in [
            (&b"x=1; sid=a; y=2"[..], &b"x=1; y=2"[..]),
            (b"sid=a; x=1", b"x=1"),
            (b"x=1; sid=a", b"x=1"),
            (b"x=1;sid=a;y=\xff;z", b"x=1;y=\xff;z"),
            (b"sid=a;  x = \"1\" ;; sid=b;y", b"x = \"1\" ;;y"),
        ] {
            assert_eq!(stripped(&[before]), [after], "{:?}", String::from_utf8_lossy(before));
        }
        for only in [&b"sid=a"[..], b" sid=a ;", b"sid=a; sid=b"] {
            assert!(stripped(&[only]).is_empty(), "{:?}", String::from_utf8_lossy(only));
        }
        assert_eq!(stripped(&[b"sid=a", b"x=1; sid=b", b"y=2"]), [b"x=1", b"y=2"]);
    }
}
