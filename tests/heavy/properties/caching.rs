//! Responses: the affinity cookie is added, and everything else is unchanged.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use proptest::prelude::*;
use tower_sticky::affinity::{Conflict, Cookie};

use crate::support::{config, fields, gateway, header_bytes, send, two};

/// The directives of all fields, as RFC 9111 and RFC 9110 (section 5.6.4) have them: a list, with
/// quoted strings in which a backslash takes the next character as it is.
fn directives(fields: &[Bytes]) -> Vec<Bytes> {
    let mut all = Vec::new();
    for field in fields {
        let (mut quoted, mut escaped) = (false, false);
        let mut directive = Vec::new();
        for &byte in field {
            let ends = byte == b',' && !quoted;
            if ends {
                all.push(std::mem::take(&mut directive));
            } else {
                directive.push(byte);
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ => {}
            }
        }
        all.push(directive);
    }
    let trimmed = all.iter().map(|directive| Bytes::copy_from_slice(directive.trim_ascii()));
    trimmed.filter(|directive| !directive.is_empty()).collect()
}

fn name(directive: &[u8]) -> Vec<u8> {
    let name = directive.split(|b| *b == b'=').next().unwrap();
    name.trim_ascii().to_ascii_lowercase()
}

fn is_safe(directive: &[u8]) -> bool {
    matches!(&directive.to_ascii_lowercase()[..], b"private" | b"no-store")
}

/// Well-formed directives, those that matter more often than others.
fn directive() -> impl Strategy<Value = String> {
    let known = [
        "public",
        "Public",
        "PUBLIC",
        "s-maxage=600",
        "S-MaxAge=1",
        "s-maxage=\"5\"",
        "max-age=60",
        "no-cache",
        "no-cache=\"set-cookie\"",
        "must-revalidate",
        "immutable",
        "no-transform",
        "public=1",
        "publicly",
        "x-public",
        "s-maxagex=1",
        "x=public",
        "stale-if-error=9",
    ];
    let safe = ["private", "Private", "no-store", "NO-STORE"];
    let nearly =
        ["private=\"x\"", "privately", "no-stored", "no-store=1", "x-private", "x=private"];
    let quoted = r#"[a-z]{1,5}="([a-z ,=;]|, public|, private|, no-store|\\["\\a]){0,6}""#;
    prop_oneof![
        6 => prop::sample::select(known.to_vec()).prop_map(String::from),
        1 => prop::sample::select(safe.to_vec()).prop_map(String::from),
        2 => prop::sample::select(nearly.to_vec()).prop_map(String::from),
        3 => quoted.prop_map(String::from),
    ]
}

fn cache_control() -> impl Strategy<Value = Vec<Bytes>> {
    let separator = prop::sample::select(vec![",", ", ", " ,\t", ",,", " , , "]);
    let field = (prop::collection::vec(directive(), 0..5), separator)
        .prop_map(|(directives, separator)| Bytes::from(directives.join(separator)));
    prop::collection::vec(field, 0..3)
}

/// `Set-Cookie` fields of other cookies.
fn set_cookies() -> impl Strategy<Value = Vec<Bytes>> {
    let cookie = "(sidx|xsid|SID|sess|\\$sid|s id)=[ -~]{0,12}(; Path=/[a-z]{0,3})?(; HttpOnly)?";
    let field = prop_oneof![
        3 => cookie.prop_map(String::into_bytes),
        1 => header_bytes(16),
    ];
    prop::collection::vec(field.prop_map(Bytes::from), 0..4)
}

/// Whether a field sets a cookie named `sid`; one without `=` is taken for its name.
fn sets_ours(field: &[u8]) -> bool {
    let pair = field.split(|b| *b == b';').next().unwrap();
    pair.split(|b| *b == b'=').next().unwrap().trim_ascii() == b"sid"
}

fn headers(name: header::HeaderName, fields: &[Bytes]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for field in fields {
        headers.append(name.clone(), HeaderValue::from_bytes(field).unwrap());
    }
    headers
}

proptest! {
    #![proptest_config(config(2048))]

    #[test]
    fn no_shared_cache_keeps_our_cookie(written in cache_control()) {
        let (backends, told) = two("default");
        let gateway = gateway(&backends, Cookie::plain("sid"));
        *told.answer.lock().unwrap() = headers(header::CACHE_CONTROL, &written);
        let answer = send(&gateway, &[""; 0]);
        prop_assert!(answer.token("sid").is_some());
        let got = fields(&answer.headers, header::CACHE_CONTROL);
        let (before, after) = (directives(&written), directives(&got));
        if before.iter().any(|directive| is_safe(directive)) {
            prop_assert_eq!(got, written, "it was safe already");
            return Ok(());
        }
        prop_assert!(after.contains(&Bytes::from("private")), "{:?}", answer.headers);
        prop_assert!(after.contains(&Bytes::from("no-cache=\"set-cookie\"")), "{:?}", answer.headers);
        let shared = |directive: &[u8]| matches!(&name(directive)[..], b"public" | b"s-maxage");
        prop_assert!(!after.iter().any(|directive| shared(directive)), "{:?}", answer.headers);
        let kept: Vec<_> = before.into_iter().filter(|directive| !shared(directive)).collect();
        prop_assert_eq!(&after[2..], kept, "all other directives stay, in order");

        // A response without the cookie is not changed.
        let pinned = send(&gateway, &["sid=a"]);
        prop_assert_eq!(fields(&pinned.headers, header::CACHE_CONTROL), written);
    }

    #[test]
    fn whatever_stands_in_cache_control_our_cookie_is_kept_out_of_caches(
        written in prop::collection::vec(
            prop_oneof![
                header_bytes(24).prop_map(Bytes::from),
                "[a-z,=\" \\\\]{0,30}".prop_map(Bytes::from),
            ],
            0..3,
        )
    ) {
        let (backends, told) = two("default");
        let gateway = gateway(&backends, Cookie::plain("sid"));
        *told.answer.lock().unwrap() = headers(header::CACHE_CONTROL, &written);
        let answer = send(&gateway, &[""; 0]);
        prop_assert_eq!(answer.status, 200);
        let got = fields(&answer.headers, header::CACHE_CONTROL);
        let front = got.first().is_some_and(|f| f.starts_with(b"private, no-cache=\"set-cookie\""));
        let safe = written.iter().flat_map(|f| f.split(|b| *b == b',')).any(|d| is_safe(d.trim_ascii()));
        prop_assert!(front || (safe && got == written), "{:?}", answer.headers);
    }

    #[test]
    fn other_cookies_of_a_response_stay_as_they_are(
        mut written in set_cookies(),
        ours in prop::option::of((any::<prop::sample::Index>(), "sid=[a-z]{0,5}(; Path=/)?")),
        preserve in any::<bool>(),
    ) {
        let (backends, told) = two("default");
        let conflict = if preserve { Conflict::Preserve } else { Conflict::Replace };
        let gateway = gateway(&backends, Cookie::plain("sid").conflict(conflict));
        if let Some((at, ours)) = ours {
            written.insert(at.index(written.len() + 1), Bytes::from(ours));
        }
        *told.answer.lock().unwrap() = headers(header::SET_COOKIE, &written);
        let keeps = preserve && written.iter().any(|field| sets_ours(field));
        for cookie in [None, Some("sid=a")] {
            let answer = send(&gateway, &Vec::from_iter(cookie));
            let mut expected = written.clone();
            if !keeps {
                expected.retain(|field| !sets_ours(field));
                if cookie.is_none() {
                    let id = answer.backend().unwrap();
                    let set = format!("sid={id}; HttpOnly; SameSite=Lax; Path=/");
                    expected.push(Bytes::from(set));
                }
            }
            prop_assert_eq!(fields(&answer.headers, header::SET_COOKIE), expected);
        }
    }
}
