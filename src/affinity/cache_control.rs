//! Keeps responses that carry a token out of shared caches.

use http::{HeaderMap, HeaderName, HeaderValue, header::CACHE_CONTROL};

/// Keeps a response that carries a token in `field` out of shared caches (RFC 9111, section 5.2.2):
/// adds `private` and `no-cache="…"` with the field's name, and drops `public` and `s-maxage`, unless
/// it is `no-store` or `private` as a whole already. `Set-Cookie` alone does not prevent caching.
///
/// Fields for certain caches take precedence over `Cache-Control` there (RFC 9213), so that those that are
/// present are changed in the same way. `Surrogate-Control` has no `private`, so it gets `no-store`.
pub(super) fn make_private(headers: &mut HeaderMap, field: &str) {
    make_field_private(headers, &CACHE_CONTROL, field);
    let targeted: Vec<_> = headers.keys().filter(|name| is_targeted(name)).cloned().collect();
    for name in targeted {
        make_field_private(headers, &name, field);
    }
    if headers.contains_key(&SURROGATE_CONTROL) {
        never_store(headers);
    }
}

const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Whether it is `CDN-Cache-Control` (RFC 9213, section 3.1), or the same for the caches of one vendor.
fn is_targeted(name: &HeaderName) -> bool {
    name.as_str()
        .strip_suffix("cdn-cache-control")
        .is_some_and(|it| it.is_empty() || it.ends_with('-'))
}

/// Makes `Surrogate-Control` prevent caching. What it says about processing is kept.
fn never_store(headers: &mut HeaderMap) {
    const CACHING: [&[u8]; 6] = [
        b"public",
        b"max-age",
        b"s-maxage",
        b"no-store",
        b"stale-while-revalidate",
        b"stale-if-error",
    ];
    let mut safe = b"no-store".to_vec();
    for directive in headers.get_all(&SURROGATE_CONTROL).iter().flat_map(directives) {
        if !CACHING.iter().any(|name| matches_name(directive, name)) {
            safe.extend_from_slice(b", ");
            safe.extend_from_slice(directive);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&safe) {
        headers.insert(SURROGATE_CONTROL, value);
    }
}

fn make_field_private(headers: &mut HeaderMap, target: &HeaderName, field: &str) {
    let has = |name: &[u8]| {
        let mut all = headers.get_all(target).iter().flat_map(directives);
        all.any(|directive| directive.eq_ignore_ascii_case(name))
    };
    // A cache that understands the response ignores `no-store` beside `must-understand`
    // (section 5.2.2.3).
    if has(b"private") || (has(b"no-store") && !has(b"must-understand")) {
        return;
    }
    let mut safe = format!("private, no-cache=\"{field}\"").into_bytes();
    for directive in headers.get_all(target).iter().flat_map(directives) {
        if !matches_name(directive, b"public") && !matches_name(directive, b"s-maxage") {
            safe.extend_from_slice(b", ");
            safe.extend_from_slice(directive);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&safe) {
        headers.insert(target, value);
    }
}

fn matches_name(directive: &[u8], name: &[u8]) -> bool {
    let end = directive.iter().position(|&b| b == b'=').unwrap_or(directive.len());
    directive[..end].trim_ascii().eq_ignore_ascii_case(name)
}

/// The directives of one field. A comma in a quoted string does not separate directives, and an escaped
/// quote does not end the string (RFC 9110, section 5.6.4).
fn directives(field: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    field
        .as_bytes()
        .split(move |&byte| {
            if std::mem::take(&mut escaped) {
                return false;
            }
            escaped = quoted && byte == b'\\';
            quoted ^= byte == b'"';
            byte == b',' && !quoted
        })
        .map(<[u8]>::trim_ascii)
        .filter(|directive| !directive.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_private(fields: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(field));
        }
        make_private(&mut headers, "set-cookie");
        headers.get_all(CACHE_CONTROL).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn responses_become_private() {
        const SAFE: &str = "private, no-cache=\"set-cookie\"";
        assert_eq!(made_private(&[]), [SAFE]);
        assert_eq!(
            made_private(&["public, max-age=60", "S-MaxAge = 600, immutable"]),
            [format!("{SAFE}, max-age=60, immutable")]
        );
        assert_eq!(
            made_private(&["x=\"a\\\", private, b\", public"]),
            [format!("{SAFE}, x=\"a\\\", private, b\"")],
            "an escaped quote does not end the string"
        );
        assert_eq!(
            made_private(&["no-cache=\"a, public\", private=\"x\""]),
            [format!("{SAFE}, no-cache=\"a, public\", private=\"x\"")],
            "private for one field only is not private"
        );
    }

    #[test]
    fn private_responses_do_not_change() {
        assert!(made_private(&["no-store, must-understand"])[0].starts_with("private"));
        for safe in ["no-store", "max-age=5, No-Store", "Private", "private, max-age=60"] {
            assert_eq!(made_private(&[safe]), [safe]);
        }
    }

    #[test]
    fn fields_of_certain_caches_are_made_private_too() {
        for (name, value, becomes) in [
            (
                "cdn-cache-control",
                "public, max-age=600",
                "private, no-cache=\"set-cookie\", max-age=600",
            ),
            (
                "netlify-cdn-cache-control",
                "public, s-maxage=600, durable",
                "private, no-cache=\"set-cookie\", durable",
            ),
            ("cdn-cache-control", "no-store", "no-store"),
            (
                "surrogate-control",
                "public, max-age=600, content=\"ESI/1.0\"",
                "no-store, content=\"ESI/1.0\"",
            ),
            ("surrogate-control", "no-store", "no-store"),
            ("xcdn-cache-control", "public", "public"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(name, HeaderValue::from_static(value));
            make_private(&mut headers, "set-cookie");
            assert_eq!(headers[name], becomes, "{name}: {value}");
            assert_eq!(headers[CACHE_CONTROL], "no-store");
        }
    }
}
