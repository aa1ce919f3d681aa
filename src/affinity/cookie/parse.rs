//! Finding and removing one cookie in the `Cookie` header, on bytes.
//!
//! After RFC 6265, section 5.4, and what user agents send in fact: pairs separated by `;`, optional
//! white space (SP and HTAB) around name and value, one pair of quotes around a value. Nothing is
//! decoded. A name matches exactly or not at all, and a byte that is not ASCII in another cookie
//! does no harm.
//!
//! The name is searched for as a string, and what stands around it decides whether it is a cookie's
//! name: other cookies, however many, are passed over without being taken apart.

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, Entry, ValueIter},
};
use memchr::{memchr, memmem::Finder};

/// The name of a cookie, ready to be searched for.
#[derive(Debug)]
pub(crate) struct Name {
    finder: Finder<'static>,
}

/// One cookie in a field: the whole pair from after the `;` before it, and its value.
struct Found<'a> {
    start: usize,
    end: usize,
    /// Where the value begins.
    at: usize,
    /// The value, maybe with quotes.
    written: &'a [u8],
}

impl Name {
    pub(crate) fn new(name: &str) -> Self {
        Self { finder: Finder::new(name).into_owned() }
    }

    /// The next cookie of this name in `field`, at `from` or behind.
    #[inline]
    fn find<'a>(&self, field: &'a [u8], mut from: usize) -> Option<Found<'a>> {
        let name = self.finder.needle();
        loop {
            // Most often it is the first or the only one.
            let at = match field.get(from..)? {
                rest if rest.starts_with(name) => from,
                rest => from + self.finder.find(rest)?,
            };
            let behind = at + name.len();
            let start = pair_start(field, at);
            let value_start = skip_white(field, behind);
            match (start, field.get(value_start)) {
                (Some(start), Some(b'=')) => {
                    let rest = &field[value_start + 1..];
                    let end = value_start + 1 + pair_len(rest);
                    let at = skip_white(field, value_start + 1);
                    let written = trim_end(&field[at..end]);
                    return Some(Found { start, end, at, written });
                }
                // The name stands inside of something else.
                _ => from = at + 1,
            }
        }
    }
}

/// A walk over the cookies of one name, over all `Cookie` fields (HTTP/2 splits them).
pub(crate) struct Cookies<'a> {
    fields: ValueIter<'a, HeaderValue>,
    field: Option<&'a [u8]>,
    from: usize,
    /// Whether it is still in the first field.
    first: bool,
    sole: bool,
}

impl<'a> Cookies<'a> {
    #[inline]
    pub(crate) fn new(headers: &'a HeaderMap) -> Self {
        let mut fields = headers.get_all(COOKIE).into_iter();
        let field = fields.next().map(HeaderValue::as_bytes);
        Self { fields, field, from: 0, first: true, sole: false }
    }

    /// The value of the next one.
    #[inline]
    pub(crate) fn next(&mut self, name: &Name) -> Option<&'a [u8]> {
        loop {
            let field = self.field?;
            if let Some(found) = name.find(field, self.from) {
                let whole = found.start == 0 && found.end == field.len();
                self.sole = whole && self.first && self.fields.size_hint().1 == Some(0);
                self.from = found.end;
                return Some(unquote(found.written));
            }
            self.field = self.fields.next().map(HeaderValue::as_bytes);
            (self.from, self.first) = (0, false);
        }
    }

    /// Whether the cookie just found is all that there is: then removing it removes the header.
    #[inline]
    pub(crate) fn is_sole(&self) -> bool {
        self.sole
    }
}

/// What becomes of one cookie.
pub(crate) enum Edit<'a> {
    Keep,
    Remove,
    /// It gets this value, in place of the old one and its quotes.
    Replace(&'a [u8]),
}

/// Removes every cookie of this name and leaves all other bytes as they are. A field that would
/// become empty goes.
pub(crate) fn remove(headers: &mut HeaderMap, name: &Name) {
    edit(headers, name, |_| Edit::Remove);
}

/// Asks `choose` what becomes of each cookie of this name, by its value, and leaves all other bytes
/// as they are. A field that would become empty goes.
pub(crate) fn edit<'a>(
    headers: &mut HeaderMap,
    name: &Name,
    mut choose: impl FnMut(&[u8]) -> Edit<'a>,
) {
    // An entry could make the map grow, only to find nothing.
    if !headers.contains_key(COOKIE) {
        return;
    }
    let Entry::Occupied(mut fields) = headers.entry(COOKIE) else {
        return;
    };
    let mut left_over = false;
    for field in fields.iter_mut() {
        if let Some(rest) = edited(field.as_bytes(), name, &mut choose) {
            *field = rest;
            left_over |= field.is_empty();
        }
    }
    if !left_over {
        return;
    }
    let (key, values) = fields.remove_entry_mult();
    let kept: Vec<_> = values.filter(|field| !field.is_empty()).collect();
    for field in kept {
        headers.append(&key, field);
    }
}

/// The field as it becomes; `None` when it stays as it is.
fn edited<'a>(
    field: &[u8],
    name: &Name,
    choose: &mut impl FnMut(&[u8]) -> Edit<'a>,
) -> Option<HeaderValue> {
    let first = name.find(field, 0)?;
    let mut kept = Vec::with_capacity(field.len());
    let (mut next, mut done, mut changed) = (Some(first), 0, false);
    // Whether all before `done` was removed, and whether the last pair was.
    let (mut at_front, mut cut) = (false, false);
    while let Some(found) = next {
        match choose(unquote(found.written)) {
            Edit::Keep => cut = false,
            Edit::Replace(value) => {
                kept.extend_from_slice(&field[done..found.at]);
                kept.extend_from_slice(value);
                done = found.at + found.written.len();
                (changed, cut) = (true, false);
            }
            Edit::Remove => {
                at_front |= found.start == 0;
                kept.extend_from_slice(&field[done..found.start]);
                // One of the two semicolons around the pair goes with it: the one behind, and at the
                // end of the field the one before.
                done = found.end + 1;
                (changed, cut) = (true, true);
            }
        }
        next = name.find(field, found.end + 1);
    }
    if !changed {
        return None;
    }
    match field.get(done..) {
        Some(rest) => kept.extend_from_slice(rest),
        None if cut => {
            kept.pop_if(|last| *last == b';');
        }
        None => {}
    }
    // White space that stood between our cookie and another one is not the front of the field.
    let kept = if at_front { trim_start(&kept) } else { &kept };
    let kept = if kept.iter().all(|b| b" \t;".contains(b)) { b"" } else { kept };
    // Bytes of a header value are a header value.
    Some(HeaderValue::from_bytes(kept).unwrap_or_else(|_| HeaderValue::from_static("")))
}

/// How far it is to the end of the pair.
#[inline]
fn pair_len(rest: &[u8]) -> usize {
    // A short rest, such as a plain token at the end, is read before a vectorised search is set up.
    let end = if rest.len() <= 16 {
        rest.iter().position(|&byte| byte == b';')
    } else {
        memchr(b';', rest)
    };
    end.unwrap_or(rest.len())
}

/// Where the pair begins whose first character that is not white space stands at `at`; `None` when
/// `at` is in the middle of one.
#[inline]
fn pair_start(field: &[u8], mut at: usize) -> Option<usize> {
    while at > 0 {
        match field[at - 1] {
            b' ' | b'\t' => at -= 1,
            b';' => break,
            _ => return None,
        }
    }
    Some(at)
}

#[inline]
fn skip_white(field: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t') = field.get(at) {
        at += 1;
    }
    at
}

pub(crate) fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

fn trim_start(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

fn trim_end(mut bytes: &[u8]) -> &[u8] {
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
        let headers = headers(fields);
        let mut cookies = Cookies::new(&headers);
        std::iter::from_fn(|| cookies.next(&Name::new("sid")).map(<[u8]>::to_vec)).collect()
    }

    fn stripped(fields: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut map = headers(fields);
        remove(&mut map, &Name::new("sid"));
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
            (b"sid=0123456789012345678901234567890; x", b"0123456789012345678901234567890"),
            (b"sid=012345678901234567890123; x", b"012345678901234567890123"),
            (b"sid=0123456789012345678901234", b"0123456789012345678901234"),
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
            cookies.next(&Name::new("sid")).map(|_| cookies.is_sole())
        };
        assert_eq!(sole(&[b"sid=a"]), Some(true));
        assert_eq!(sole(&[b"x=1"]), None);
        for several in
            [&[&b"sid=a; x=1"[..]][..], &[b"x=1; sid=a"], &[b"sid=a", b"x=1"], &[b"x=1", b"sid=a"]]
        {
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
            (b" x=1; sid=a;", b" x=1;"),
            (b"x=1;;sid=a", b"x=1;"),
            (b"x=sid=1; sid=a; sidx=sid", b"x=sid=1; sidx=sid"),
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
