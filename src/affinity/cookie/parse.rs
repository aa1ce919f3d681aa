//! Finding and removing one cookie in the `Cookie` header, on bytes.
//!
//! The syntax is that of RFC 6265, section 5.4, and of the user agents in use: pairs separated by `;`,
//! optional white space (SP and HTAB) around name and value, one pair of quotes around a value. Nothing
//! is decoded. A name matches exactly, and other cookies may contain bytes that are not ASCII.
//!
//! The name is searched for as a substring, and the bytes around a match decide whether it is the name
//! of a cookie. So other cookies are skipped without being parsed.

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, Entry, ValueIter},
};
use memchr::{memchr, memmem::Finder};

/// The name of a cookie, with a prepared substring search.
#[derive(Debug)]
pub(crate) struct Name {
    finder: Finder<'static>,
}

/// One cookie in a field. The pair is `start..end`, from after the `;` before it.
struct Found<'a> {
    start: usize,
    end: usize,
    value_start: usize,
    /// The value, with its quotes.
    raw_value: &'a [u8],
}

impl Name {
    pub(crate) fn new(name: &str) -> Self {
        Self { finder: Finder::new(name).into_owned() }
    }

    /// The name as text; empty if it is not UTF-8.
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(self.finder.needle()).unwrap_or_default()
    }

    /// The next cookie of this name in `field`, at `from` or after it.
    #[inline]
    fn find<'a>(&self, field: &'a [u8], mut from: usize) -> Option<Found<'a>> {
        let name = self.finder.needle();
        loop {
            // Usually it is the first or the only cookie.
            let at = match field.get(from..)? {
                rest if rest.starts_with(name) => from,
                rest => from + self.finder.find(rest)?,
            };
            let name_end = at + name.len();
            let start = pair_start(field, at);
            let equals = skip_white(field, name_end);
            match (start, field.get(equals)) {
                (Some(start), Some(b'=')) => {
                    let rest = &field[equals + 1..];
                    let end = equals + 1 + pair_len(rest);
                    let value_start = skip_white(field, equals + 1);
                    let raw_value = trim_end(&field[value_start..end]);
                    return Some(Found { start, end, value_start, raw_value });
                }
                // The match is part of another name or value.
                _ => from = at + 1,
            }
        }
    }
}

/// Iterates over the cookies of one name in all `Cookie` fields (HTTP/2 splits them).
pub(crate) struct Cookies<'a> {
    fields: ValueIter<'a, HeaderValue>,
    field: Option<&'a [u8]>,
    from: usize,
    /// Whether `field` is the first one.
    first: bool,
    only_value: bool,
}

impl<'a> Cookies<'a> {
    #[inline]
    pub(crate) fn new(headers: &'a HeaderMap) -> Self {
        let mut fields = headers.get_all(COOKIE).into_iter();
        let field = fields.next().map(HeaderValue::as_bytes);
        Self { fields, field, from: 0, first: true, only_value: false }
    }

    /// The value of the next cookie.
    #[inline]
    pub(crate) fn next(&mut self, name: &Name) -> Option<&'a [u8]> {
        loop {
            let field = self.field?;
            if let Some(found) = name.find(field, self.from) {
                let whole = found.start == 0 && found.end == field.len();
                self.only_value = whole && self.first && self.fields.size_hint().1 == Some(0);
                self.from = found.end;
                return Some(unquote(found.raw_value));
            }
            self.field = self.fields.next().map(HeaderValue::as_bytes);
            (self.from, self.first) = (0, false);
        }
    }

    /// Whether the cookie that was found last is the whole header.
    #[inline]
    pub(crate) fn is_only_value(&self) -> bool {
        self.only_value
    }
}

/// What to do with one cookie.
pub(crate) enum Edit<'a> {
    Keep,
    Remove,
    /// Replaces the value and its quotes.
    Replace(&'a [u8]),
}

/// Removes every cookie of this name. All other bytes stay the same; a field that becomes empty is
/// removed.
pub(crate) fn remove(headers: &mut HeaderMap, name: &Name) {
    edit(headers, name, |_| Edit::Remove);
}

/// Edits each cookie of this name as `choose` returns for its value. All other bytes stay the same; a
/// field that becomes empty is removed.
pub(crate) fn edit<'a>(
    headers: &mut HeaderMap,
    name: &Name,
    mut choose: impl FnMut(&[u8]) -> Edit<'a>,
) {
    // `entry` may grow the map, also when the header is absent.
    if !headers.contains_key(COOKIE) {
        return;
    }
    let Entry::Occupied(mut fields) = headers.entry(COOKIE) else {
        return;
    };
    // The positions of the fields that became empty. Those that were empty before stay.
    let mut emptied = Vec::new();
    for (position, field) in fields.iter_mut().enumerate() {
        if let Some(rest) = edit_field(field.as_bytes(), name, &mut choose) {
            *field = rest;
            if field.is_empty() {
                emptied.push(position);
            }
        }
    }
    if emptied.is_empty() {
        return;
    }
    let (key, values) = fields.remove_entry_mult();
    let mut emptied = emptied.into_iter().peekable();
    let kept: Vec<_> = values
        .enumerate()
        .filter(|(position, _)| emptied.next_if_eq(position).is_none())
        .map(|(_, field)| field)
        .collect();
    for field in kept {
        headers.append(&key, field);
    }
}

/// The edited field; `None` when it does not change.
fn edit_field<'a>(
    field: &[u8],
    name: &Name,
    choose: &mut impl FnMut(&[u8]) -> Edit<'a>,
) -> Option<HeaderValue> {
    let first = name.find(field, 0)?;
    let mut kept = Vec::with_capacity(field.len());
    let (mut next, mut done, mut changed) = (Some(first), 0, false);
    // Whether the first pair was removed.
    let mut at_front = false;
    while let Some(found) = next {
        match choose(unquote(found.raw_value)) {
            Edit::Keep => {}
            Edit::Replace(value) => {
                kept.extend_from_slice(&field[done..found.value_start]);
                kept.extend_from_slice(value);
                done = found.value_start + found.raw_value.len();
                changed = true;
            }
            Edit::Remove => {
                at_front |= found.start == 0;
                kept.extend_from_slice(&field[done..found.start]);
                // One semicolon is removed with the pair: the one after it, or at the end of the
                // field the one before it.
                done = found.end + 1;
                changed = true;
            }
        }
        next = name.find(field, found.end + 1);
    }
    if !changed {
        return None;
    }
    match field.get(done..) {
        Some(rest) => kept.extend_from_slice(rest),
        // The last pair was removed.
        None => {
            kept.pop_if(|last| *last == b';');
        }
    }
    // White space after a removed first pair must not start the field.
    let kept = if at_front { trim_start(&kept) } else { &kept };
    let kept = if kept.iter().all(|b| b" \t;".contains(b)) { b"" } else { kept };
    // The parts of a valid header value are valid.
    Some(HeaderValue::from_bytes(kept).unwrap_or_else(|_| HeaderValue::from_static("")))
}

/// The length of the pair that `rest` begins with.
#[inline]
fn pair_len(rest: &[u8]) -> usize {
    // For a short rest, such as a plain token at the end, a loop is faster than a vectorised search.
    let end = if rest.len() <= 16 {
        rest.iter().position(|&byte| byte == b';')
    } else {
        memchr(b';', rest)
    };
    end.unwrap_or(rest.len())
}

/// The start of the pair whose first character after white space is at `at`; `None` when `at` is
/// inside a pair.
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
    fn names_match_exactly() {
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
            assert_eq!(stripped(&[other]), [other], "a field without our cookie does not change");
        }
    }

    #[test]
    fn values_with_quotes_and_white_space_are_found() {
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
    fn a_single_cookie_is_recognised() {
        let only_value = |fields: &[&[u8]]| {
            let headers = headers(fields);
            let mut cookies = Cookies::new(&headers);
            cookies.next(&Name::new("sid")).map(|_| cookies.is_only_value())
        };
        assert_eq!(only_value(&[b"sid=a"]), Some(true));
        assert_eq!(only_value(&[b"x=1"]), None);
        for several in
            [&[&b"sid=a; x=1"[..]][..], &[b"x=1; sid=a"], &[b"sid=a", b"x=1"], &[b"x=1", b"sid=a"]]
        {
            assert_eq!(only_value(several), Some(false), "{several:?}");
        }
    }

    #[test]
    fn removal_keeps_all_other_bytes() {
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

    #[test]
    fn a_field_that_was_empty_before_stays() {
        assert_eq!(stripped(&[b"", b"sid=a", b"x=1", b""]), [&b""[..], b"x=1", b""]);
        assert_eq!(stripped(&[b"sid=a", b"", b"sid=b"]), [b""]);
    }
}
