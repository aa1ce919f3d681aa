//! Keeping a response that sets our cookie out of shared caches.

use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};

/// Makes a response that carries a pin in `field` safe from shared caches (RFC 9111, section 5.2.2):
/// adds `private` and `no-cache="…"` with the field's name, and drops `public` and `s-maxage`, unless
/// it is `no-store` or wholly `private` already. `Set-Cookie` alone does not keep a cache from storing.
pub(super) fn make_private(headers: &mut HeaderMap, field: &str) {
    let said = |name: &[u8]| {
        let mut all = headers.get_all(CACHE_CONTROL).iter().flat_map(directives);
        all.any(|directive| directive.eq_ignore_ascii_case(name))
    };
    // A cache that understands the response must not heed `no-store` beside `must-understand`
    // (section 5.2.2.3).
    if said(b"private") || (said(b"no-store") && !said(b"must-understand")) {
        return;
    }
    let mut safe = format!("private, no-cache=\"{field}\"").into_bytes();
    for directive in headers.get_all(CACHE_CONTROL).iter().flat_map(directives) {
        if !matches_name(directive, b"public") && !matches_name(directive, b"s-maxage") {
            safe.extend_from_slice(b", ");
            safe.extend_from_slice(directive);
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(&safe) {
        headers.insert(CACHE_CONTROL, value);
    }
}

fn matches_name(directive: &[u8], name: &[u8]) -> bool {
    let end = directive.iter().position(|&b| b == b'=').unwrap_or(directive.len());
    directive[..end].trim_ascii().eq_ignore_ascii_case(name)
}

/// The directives of one field; a comma inside quotes does not separate, and a quote behind a
/// backslash does not end them (RFC 9110, section 5.6.4).
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
    fn shared_caches_are_kept_out() {
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
    fn what_is_safe_already_stays_as_it_is() {
        assert!(made_private(&["no-store, must-understand"])[0].starts_with("private"));
        for safe in ["no-store", "max-age=5, No-Store", "Private", "private, max-age=60"] {
            assert_eq!(made_private(&[safe]), [safe]);
        }
    }
}
