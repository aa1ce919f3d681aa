//! The `Cookie` header on bytes, against a reference that splits it at its semicolons.

#![no_main]

use bytes::Bytes;
use http::{HeaderMap, header::COOKIE};
use libfuzzer_sys::fuzz_target;
use tower_sticky::fuzzing::{cookie_values, edit_cookies, remove_cookies};
use tower_sticky_fuzz::{cookie_model as model, fields};

const NAMES: [&str; 4] = ["sid", "s", "aa", "__Host-sid"];

fn bytes(headers: &HeaderMap) -> Vec<Bytes> {
    headers.get_all(COOKIE).iter().map(|field| Bytes::copy_from_slice(field.as_bytes())).collect()
}

fuzz_target!(|input: (u8, &[u8])| {
    let (name, lines) = input;
    let name = NAMES[usize::from(name) % NAMES.len()];
    let mut headers = HeaderMap::new();
    headers.insert("x-other", fields(lines)[0].clone());
    for field in fields(lines) {
        headers.append(COOKIE, field);
    }
    let sent = bytes(&headers);
    let values = model::values(&sent, name);
    assert_eq!(cookie_values(&headers, name), values, "the values");

    let without = model::without(&sent, name);
    let mut removed = headers.clone();
    remove_cookies(&mut removed, name);
    assert_eq!(bytes(&removed), without, "what is left");
    assert_eq!(removed.get("x-other"), headers.get("x-other"));

    // Every second value is replaced, and nothing else changes.
    let mut edited = headers.clone();
    let mut position = 0;
    edit_cookies(&mut edited, name, |_| {
        position += 1;
        Some(if position % 2 == 0 { b"new" } else { b"other" })
    });
    let expected = ["other", "new"].into_iter().cycle().take(values.len());
    assert!(cookie_values(&edited, name).iter().map(Vec::as_slice).eq(expected.map(str::as_bytes)));
    assert_eq!(model::without(&bytes(&edited), name), without, "what is left of the edited one");
    assert_eq!(bytes(&edited).len(), sent.len());
});
