//! Keeps responses that carry a token out of shared caches.

use http::{HeaderMap, HeaderName, HeaderValue, header::CACHE_CONTROL};

/// What is dropped beside `no-store`: what permits a cache to store a response, or to use a stored one
/// when it is stale.
const STORING: [&[u8]; 8] = [
    b"no-store",
    b"public",
    b"s-maxage",
    b"max-age",
    b"stale-while-revalidate",
    b"stale-if-error",
    b"immutable",
    b"must-understand",
];

/// Keeps a response that carries a token in `field` out of shared caches (RFC 9111, section 5.2.2):
/// adds `private` and `no-cache="…"` with the field's name, and drops `public` and `s-maxage`, unless
/// it is `no-store` or `private` as a whole already. `Set-Cookie` alone does not prevent caching.
///
/// The fields that address shared caches only, such as `CDN-Cache-Control` (RFC 9213) and
/// `Surrogate-Control` (Edge Architecture Specification), take precedence over `Cache-Control` there.
/// Where a response has one, it becomes `no-store`, without the directives that permit storing.
pub(super) fn make_private(headers: &mut HeaderMap, field: &str) {
    let targeted: Vec<_> = headers.keys().filter(|name| is_targeted(name)).cloned().collect();
    for name in targeted {
        forbid_storing(headers, name);
    }
    if has(headers, &CACHE_CONTROL, b"private") || forbids_storing(headers, &CACHE_CONTROL) {
        return;
    }
    let added = format!("private, no-cache=\"{field}\"");
    rewrite(headers, CACHE_CONTROL, &added, &[b"public", b"s-maxage"]);
}

/// Whether a field addresses shared caches only. The names of targeted fields end in
/// `CDN-Cache-Control` by convention (RFC 9213, section 3), such as `Cloudflare-CDN-Cache-Control`.
fn is_targeted(name: &HeaderName) -> bool {
    name.as_str().ends_with("cdn-cache-control") || name == "surrogate-control"
}

fn forbid_storing(headers: &mut HeaderMap, name: HeaderName) {
    if !forbids_storing(headers, &name) {
        rewrite(headers, name, "no-store", &STORING);
    }
}

/// Whether the field `name` has `no-store`, and no `must-understand`, with which a cache that
/// understands the response ignores `no-store` (RFC 9111, section 5.2.2.3).
fn forbids_storing(headers: &HeaderMap, name: &HeaderName) -> bool {
    has(headers, name, b"no-store") && !has(headers, name, b"must-understand")
}

fn has(headers: &HeaderMap, name: &HeaderName, directive: &[u8]) -> bool {
    let mut all = headers.get_all(name).iter().flat_map(directives);
    all.any(|found| found.eq_ignore_ascii_case(directive))
}

/// Puts `added` before the directives of the field `name`, without those in `dropped`.
fn rewrite(headers: &mut HeaderMap, name: HeaderName, added: &str, dropped: &[&[u8]]) {
    let mut safe = added.as_bytes().to_vec();
    for directive in headers.get_all(&name).iter().flat_map(directives) {
        if !dropped.iter().any(|name| matches_name(directive, name)) {
            safe.extend_from_slice(b", ");
            safe.extend_from_slice(directive);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&safe) {
        headers.insert(name, value);
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
    fn fields_for_shared_caches_only_forbid_storing() {
        for name in ["cdn-cache-control", "surrogate-control", "cloudflare-cdn-cache-control"] {
            let name = HeaderName::from_static(name);
            for (given, expected) in [
                ("public, max-age=600", "no-store"),
                ("S-MaxAge=60, stale-while-revalidate=9, stale-if-error=9", "no-store"),
                ("max-age=3600+600, content=\"ESI/1.0\"", "no-store, content=\"ESI/1.0\""),
                ("must-understand, no-store", "no-store"),
                ("no-store, max-age=5", "no-store, max-age=5"),
                ("private", "no-store, private"),
            ] {
                let mut headers = HeaderMap::new();
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                headers.insert(name.clone(), HeaderValue::from_static(given));
                make_private(&mut headers, "set-cookie");
                assert_eq!(headers[&name], expected, "{name}: {given}");
                assert_eq!(headers[CACHE_CONTROL], "no-store");
            }
        }
        let mut headers = HeaderMap::new();
        make_private(&mut headers, "set-cookie");
        assert_eq!(headers.len(), 1, "a field that the response does not have is not added");
    }
}
