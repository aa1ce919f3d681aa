//! The `Cookie` header: which pin it carries, and what the backend receives.

use bytes::Bytes;
use proptest::prelude::*;
use tower_sticky::{Reason, Verdict, affinity::Cookie};

use crate::cookie_model as model;
use crate::support::{config, gateway, header_bytes, keys, send, two};

/// A pair that is, or resembles, the affinity cookie.
fn pair(value: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let white = || prop::sample::select(vec!["", "", " ", "\t", "  ", " \t "]);
    let names = [
        "sid", "sid", "sid", "sid", "sid", "$sid", "sid ", "xsid", "sidx", "SID", "s id",
        "sid sid", "x=sid", "\"sid\"", "$Version", "x", "",
    ];
    let name = prop::sample::select(names.to_vec());
    let quotes =
        prop::sample::select(vec![("", ""), ("", ""), ("\"", "\""), ("\"", ""), ("", "\"")]);
    (white(), name, white(), white(), value, quotes, white()).prop_map(
        |(before, name, behind, front, value, (open, close), end)| {
            let mut pair = format!("{before}{name}{behind}={front}{open}").into_bytes();
            pair.extend(value);
            pair.extend(format!("{close}{end}").into_bytes());
            pair
        },
    )
}

/// One to three fields of pairs and of arbitrary bytes.
fn cookie_fields(
    value: impl Strategy<Value = Vec<u8>> + Clone,
) -> impl Strategy<Value = Vec<Bytes>> {
    let piece = prop_oneof![3 => pair(value), 2 => header_bytes(12), 1 => Just(Vec::new())];
    let field = prop_oneof![
        4 => prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.join(&b';')),
        1 => header_bytes(24),
    ];
    prop::collection::vec(field.prop_map(Bytes::from), 0..4)
}

fn values() -> impl Strategy<Value = Vec<u8>> + Clone {
    let long = "b".repeat(129);
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b"]).prop_map(|id| id.as_bytes().to_vec()),
        2 => prop::sample::select(vec!["", "gone", "A", "a ", "\"a\"", "a=b"])
            .prop_map(|id| id.as_bytes().to_vec()),
        1 => Just(long.into_bytes()),
    ]
}

/// What the backend must receive: every byte of other cookies, in order.
fn check_rest(sent: &[Bytes], seen: &[Bytes]) -> Result<(), TestCaseError> {
    let expected = model::without(sent, "sid");
    prop_assert_eq!(seen, expected, "only ours is taken out");
    Ok(())
}

proptest! {
    #![proptest_config(config(4096))]

    #[test]
    fn the_first_usable_id_is_the_pin_and_the_backend_gets_the_rest(
        sent in cookie_fields(values())
    ) {
        let (backends, told) = two("default");
        let gateway = gateway(&backends, Cookie::plain("sid"));
        let answer = send(&gateway, &sent);
        prop_assert_eq!(answer.status, 200);

        let values = model::values(&sent, "sid");
        let usable = values.iter().find(|value| ***value == *b"a" || ***value == *b"b");
        match (usable, values.first()) {
            (Some(id), _) => {
                prop_assert_eq!(answer.verdict(), Verdict::Pinned);
                prop_assert_eq!(answer.backend().unwrap().as_bytes(), *id);
                prop_assert_eq!(answer.token("sid"), None, "nothing changed, nothing is sent");
            }
            (None, first) => {
                let reason = first.map(|value| match value.len() {
                    1..=128 => Reason::Unknown,
                    _ => Reason::Malformed,
                });
                prop_assert_eq!(answer.verdict(), Verdict::Assigned);
                prop_assert_eq!(answer.reason(), reason, "the first one says why");
                let token = answer.token("sid");
                prop_assert_eq!(token.as_deref(), answer.backend());
            }
        }
        check_rest(&sent, &told.cookies.lock().unwrap()[0])?;
    }

    #[test]
    fn a_cookie_that_may_be_forwarded_is_not_touched(sent in cookie_fields(values())) {
        let (backends, told) = two("default");
        let gateway = gateway(&backends, Cookie::plain("sid").forward(true));
        prop_assert_eq!(send(&gateway, &sent).status, 200);
        prop_assert_eq!(&told.cookies.lock().unwrap()[0], &sent);
    }
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn the_first_authentic_token_is_the_pin(
        (shape, picks) in (cookie_fields(Just(b"@".to_vec())), prop::collection::vec(0..5usize, 12))
    ) {
        let (backends, told) = two("default");
        let sealed = gateway(&backends, Cookie::sealed("sid", keys(1)));
        let first = send(&sealed, &[""; 0]);
        let second = send(&sealed, &[""; 0]);
        let foreign = send(&gateway(&backends, Cookie::sealed("sid", keys(2))), &[""; 0]);
        let tokens = [&first, &second, &foreign].map(|answer| answer.token("sid").unwrap());
        let owners = [first.backend().unwrap(), second.backend().unwrap()];
        prop_assert_ne!(owners[0], owners[1]);
        told.cookies.lock().unwrap().clear();

        // Each `@` becomes a token: two are valid, one is under another key, and two are malformed.
        let choices = [&tokens[0], &tokens[1], &tokens[2], "a", ""];
        let mut picks = picks.iter().cycle();
        let sent: Vec<Bytes> = shape
            .iter()
            .map(|field| {
                let parts: Vec<_> = field.split(|b| *b == b'@').collect();
                let mut filled = parts[0].to_vec();
                for part in &parts[1..] {
                    filled.extend(choices[*picks.next().unwrap()].as_bytes());
                    filled.extend(*part);
                }
                Bytes::from(filled)
            })
            .collect();

        let answer = send(&sealed, &sent);
        prop_assert_eq!(answer.status, 200);
        let values = model::values(&sent, "sid");
        let owner = values.iter().find_map(|value| {
            (0..2).find(|i| tokens[*i].as_bytes() == *value).map(|i| owners[i])
        });
        match owner {
            Some(owner) => {
                prop_assert_eq!((answer.verdict(), answer.backend()), (Verdict::Pinned, Some(owner)));
            }
            None => prop_assert_eq!(answer.verdict(), Verdict::Assigned),
        }
        check_rest(&sent, &told.cookies.lock().unwrap()[0])?;
    }
}
