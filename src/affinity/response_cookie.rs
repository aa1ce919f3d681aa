//! Parses the `Set-Cookie` field of the application's session cookie (RFC 6265bis, section 5.6).

use super::cookie::set_cookie::is_named;

/// One `Set-Cookie` field of the application's session cookie.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResponseCookie<'a> {
    field: &'a [u8],
    /// Start and end of the value, without white space around it, with its quotes.
    value: (usize, usize),
    /// Start of the attributes, at the `;` before the first one.
    attributes: usize,
}

impl<'a> ResponseCookie<'a> {
    /// `None` when `field` is for another cookie.
    pub(super) fn of(field: &'a [u8], name: &str) -> Option<Self> {
        if !is_named(field, name) {
            return None;
        }
        let attributes = field.iter().position(|&b| b == b';').unwrap_or(field.len());
        let pair = &field[..attributes];
        let start = pair.iter().position(|&b| b == b'=').map_or(attributes, |at| at + 1);
        let value = &pair[start..];
        let blank = value.len() - value.trim_ascii_start().len();
        let from = start + blank;
        Some(Self { field, value: (from, from + value.trim_ascii().len()), attributes })
    }

    /// The value, byte for byte.
    pub(super) fn value(&self) -> &'a [u8] {
        &self.field[self.value.0..self.value.1]
    }

    /// The session id that it sets; `None` when it removes the cookie. `now` in Unix seconds.
    pub(super) fn id(&self, now: u64) -> Option<&'a [u8]> {
        let empty = matches!(self.value(), b"" | b"\"\"");
        (!empty && self.expires(now).is_none_or(|at| at > now)).then(|| self.value())
    }

    /// When the cookie expires, in Unix seconds; `None` when it ends with the browser's session.
    pub(super) fn expires(&self, now: u64) -> Option<u64> {
        let (mut max_age, mut expires) = (None, None);
        // Of several attributes of one name the last valid one counts.
        for attribute in self.attributes() {
            let (name, value) = split(attribute);
            if name.eq_ignore_ascii_case(b"max-age") {
                max_age = parse_max_age(value).or(max_age);
            } else if name.eq_ignore_ascii_case(b"expires") {
                expires = parse_expires(value).or(expires);
            }
        }
        max_age.map(|age| if age == 0 { 0 } else { now.saturating_add(age) }).or(expires)
    }

    /// All attributes except `Max-Age` and `Expires`, each with the `;` before it, byte for byte.
    pub(super) fn lasting_attributes(&self) -> Vec<u8> {
        let mut lasting = Vec::with_capacity(self.field.len() - self.attributes);
        for attribute in self.attributes() {
            let (name, _) = split(attribute);
            if !name.eq_ignore_ascii_case(b"max-age") && !name.eq_ignore_ascii_case(b"expires") {
                lasting.push(b';');
                lasting.extend_from_slice(attribute);
            }
        }
        lasting
    }

    /// The field with another value; all other bytes stay the same.
    pub(super) fn with_value(&self, value: &[u8]) -> Vec<u8> {
        [&self.field[..self.value.0], value, &self.field[self.value.1..]].concat()
    }

    fn attributes(&self) -> impl Iterator<Item = &'a [u8]> {
        let attributes = self.field.get(self.attributes + 1..);
        attributes.into_iter().flat_map(|list| list.split(|&byte| byte == b';'))
    }
}

fn split(attribute: &[u8]) -> (&[u8], &[u8]) {
    let end = attribute.iter().position(|&byte| byte == b'=').unwrap_or(attribute.len());
    let value = attribute.get(end + 1..).unwrap_or_default();
    (attribute[..end].trim_ascii(), value.trim_ascii())
}

/// Parses `Max-Age`: 0 for a number that is not positive, `None` when it is not a number.
fn parse_max_age(value: &[u8]) -> Option<u64> {
    let (negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX);
    Some(if negative { 0 } else { number })
}

/// Parses `Expires`, in Unix seconds.
fn parse_expires(value: &[u8]) -> Option<u64> {
    let value = std::str::from_utf8(value).ok()?;
    let cookie = cookie::Cookie::parse(format!("a=b; Expires={value}")).ok()?;
    let at = cookie.expires_datetime()?.unix_timestamp();
    Some(u64::try_from(at).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn parse(field: &str) -> ResponseCookie<'_> {
        ResponseCookie::of(field.as_bytes(), "JSESSIONID").unwrap()
    }

    #[test]
    fn values_are_read_byte_for_byte() {
        for (field, value) in [
            ("JSESSIONID=a", "a"),
            (" JSESSIONID = a ; Path=/", "a"),
            ("JSESSIONID=\"a\"; Path=/", "\"a\""),
            ("JSESSIONID=a=b;", "a=b"),
            ("JSESSIONID=", ""),
            ("JSESSIONID=  ;x", ""),
            ("JSESSIONID", ""),
        ] {
            assert_eq!(parse(field).value(), value.as_bytes(), "{field:?}");
            let other = parse(field).with_value(b"new");
            if field.contains('=') {
                let again = ResponseCookie::of(&other, "JSESSIONID").unwrap();
                assert_eq!(again.value(), b"new", "{field:?}");
                let back = again.with_value(value.as_bytes());
                assert_eq!(back, field.as_bytes(), "all other bytes stay the same");
            }
        }
        for other in ["jsessionid=a", "XJSESSIONID=a", "JSESSIONID2=a", "", "=a"] {
            assert!(ResponseCookie::of(other.as_bytes(), "JSESSIONID").is_none(), "{other:?}");
        }
    }

    #[test]
    fn removals_are_recognised() {
        for removal in [
            "JSESSIONID=",
            "JSESSIONID=\"\"; Path=/",
            "JSESSIONID=a; Max-Age=0",
            "JSESSIONID=a; max-age = -1 ;Path=/",
            "JSESSIONID=a; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
            "JSESSIONID=a; expires=Thu, 01-Jan-1970 00:00:10 GMT; HttpOnly",
            "JSESSIONID=a; Max-Age=0; Expires=Fri, 31 Dec 2100 00:00:00 GMT",
            "JSESSIONID=a; Expires=Fri, 15 Jan 2027 08:00:00 GMT",
        ] {
            assert_eq!(parse(removal).id(NOW), None, "{removal:?}");
        }
        for (id, expires) in [
            ("JSESSIONID=a", None),
            ("JSESSIONID=a; Max-Age=x; Expires=soon", None),
            ("JSESSIONID=a; Max-Age=60", Some(NOW + 60)),
            ("JSESSIONID=a; Max-Age=99999999999999999999999", Some(u64::MAX)),
            ("JSESSIONID=a; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT", Some(NOW + 60)),
            ("JSESSIONID=a; Expires=Fri, 31 Dec 2100 00:00:00 GMT", Some(4_133_894_400)),
        ] {
            assert_eq!(parse(id).id(NOW), Some(&b"a"[..]), "{id:?}");
            assert_eq!(parse(id).expires(NOW), expires, "{id:?}");
        }
    }

    #[test]
    fn expiry_is_not_a_lasting_attribute() {
        let lasting = |field: &str| String::from_utf8(parse(field).lasting_attributes()).unwrap();
        assert_eq!(lasting("JSESSIONID=a"), "");
        assert_eq!(
            lasting("JSESSIONID=a; Path=/x;HttpOnly;Max-Age=1; EXPIRES=y ; SameSite=Lax; Odd=1=2"),
            "; Path=/x;HttpOnly; SameSite=Lax; Odd=1=2"
        );
    }
}
