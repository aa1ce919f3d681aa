//! Sealed tokens: valid for the pool and keys that made them, and never when changed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use tower_sticky::{KeyRing, Reason, Verdict, affinity::Cookie};

use crate::support::{any_header_byte, config, gateway, header_byte, key, keys, send, two};

/// A modification of a token.
#[derive(Debug, Clone)]
enum Damage {
    /// One bit of the bytes that the characters stand for.
    Flip(usize),
    /// One bit of one character.
    FlipInText(usize),
    Truncate(usize),
    CutFront(usize),
    Extend(String),
    Prepend(String),
    /// A prefix of it, and the rest of another valid token.
    Splice(usize),
    Swap(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let text = || "[A-Za-z0-9_=.%+/-]{1,90}";
    prop_oneof![
        4 => (0..59 * 8usize).prop_map(Damage::Flip),
        2 => (0..90 * 8usize).prop_map(Damage::FlipInText),
        1 => (0..79usize).prop_map(Damage::Truncate),
        1 => (1..=79usize).prop_map(Damage::CutFront),
        1 => text().prop_map(Damage::Extend),
        1 => text().prop_map(Damage::Prepend),
        2 => (1..79usize).prop_map(Damage::Splice),
        1 => (0..79usize, 0..79usize).prop_map(|(i, j)| Damage::Swap(i, j)),
    ]
}

impl Damage {
    fn apply(&self, token: &str, other: &str) -> Vec<u8> {
        let mut bytes = token.as_bytes().to_vec();
        match self {
            Self::Flip(bit) => {
                let mut raw = URL_SAFE_NO_PAD.decode(token).unwrap();
                raw[bit / 8] ^= 1 << (bit % 8);
                bytes = URL_SAFE_NO_PAD.encode(raw).into_bytes();
            }
            Self::FlipInText(bit) => bytes[bit / 8] ^= 1 << (bit % 8),
            Self::Truncate(length) => bytes.truncate(*length),
            Self::CutFront(length) => drop(bytes.drain(..length)),
            Self::Extend(text) => bytes.extend(text.bytes()),
            Self::Prepend(text) => bytes = [text.as_bytes(), &bytes].concat(),
            Self::Splice(at) => bytes[*at..].copy_from_slice(&other.as_bytes()[*at..]),
            Self::Swap(i, j) => bytes.swap(*i, *j),
        }
        bytes
    }
}

fn in_cookie(value: &[u8]) -> Vec<u8> {
    [b"sid=", value].concat()
}

proptest! {
    #![proptest_config(config(1024))]

    #[test]
    fn a_damaged_token_is_never_honoured(damage in damage()) {
        let (backends, _) = two("default");
        let gateway = gateway(&backends, Cookie::sealed("sid", keys(1)));
        let token = send(&gateway, &[""; 0]).token("sid").unwrap();
        let other = send(&gateway, &[""; 0]).token("sid").unwrap();
        let bad = damage.apply(&token, &other);
        prop_assume!(bad.iter().all(|b| header_byte(*b)));
        prop_assume!(bad != token.as_bytes() && bad != other.as_bytes());
        let answer = send(&gateway, &[in_cookie(&bad)]);
        prop_assert_eq!((answer.status, answer.verdict()), (200, Verdict::Assigned));
        prop_assert!(
            matches!(answer.reason(), Some(Reason::Forged | Reason::Malformed)),
            "{:?} for {:?}", answer.reason(), String::from_utf8_lossy(&bad)
        );
        prop_assert!(answer.token("sid").is_some(), "the bad token is replaced");
        let stats = backends.snapshot().stats;
        let errors = stats.token_errors(Reason::Forged) + stats.token_errors(Reason::Malformed);
        prop_assert_eq!((errors, stats.violations()), (1, 0));
    }

    #[test]
    fn a_token_comes_back_and_is_followed(
        (before, behind) in ("([a-z]{1,4}=[ -:<-~]{0,9}; ){0,3}", "(; [a-z]{1,4}=[ -:<-~]{0,9}){0,3}"),
        quoted in any::<bool>(),
        rounds in 1..5usize,
    ) {
        let (backends, told) = two("default");
        let gateway = gateway(&backends, Cookie::sealed("sid", keys(1)));
        prop_assume!(!before.contains("sid=") && !behind.contains("sid="));
        let first = send(&gateway, &[""; 0]);
        let token = first.token("sid").unwrap();
        let quote = if quoted { "\"" } else { "" };
        let cookie = format!("{before}sid={quote}{token}{quote}{behind}");
        for _ in 0..rounds {
            let answer = send(&gateway, &[&cookie]);
            prop_assert_eq!(answer.verdict(), Verdict::Pinned);
            prop_assert_eq!(answer.backend(), first.backend());
            prop_assert_eq!(answer.token("sid"), None);
        }
        let seen = told.cookies.lock().unwrap();
        let secret = token.as_bytes();
        let leaked = seen.iter().flatten().any(|c| c.windows(secret.len()).any(|w| w == secret));
        prop_assert!(!leaked, "no backend sees the token");
    }

    #[test]
    fn arbitrary_bytes_are_no_pin(
        bytes in prop::collection::vec(any_header_byte(), 0..200),
        exact_length in any::<bool>(),
        base64 in any::<bool>(),
    ) {
        let (backends, _) = two("default");
        let gateway = gateway(&backends, Cookie::sealed("sid", keys(1)));
        let mut token = bytes;
        token.retain(|byte| *byte != b';');
        if exact_length {
            token.resize(59, 0x41);
            // A known version, so that the keys are tried.
            token[0] = 0x40 | (token[0] & 0x3f);
        }
        if base64 || exact_length {
            token = URL_SAFE_NO_PAD.encode(&token).into_bytes();
        }
        let answer = send(&gateway, &[in_cookie(&token)]);
        prop_assert_eq!((answer.status, answer.verdict()), (200, Verdict::Assigned));
        let reason = answer.reason();
        prop_assert!(matches!(reason, Some(Reason::Forged | Reason::Malformed)), "{:?}", reason);
    }

    #[test]
    fn a_token_is_good_for_its_pool_its_name_and_its_keys_only(
        made in (0..4usize, 0..4usize, 1..4u8),
        used in (0..4usize, 0..4usize, 1..4u8),
        near in 0..8u8,
    ) {
        // Names that are ambiguous when concatenated.
        const POOLS: [&str; 4] = ["a", "ab", "abc", ""];
        const NAMES: [&str; 4] = ["c", "bc", "abc", "sid"];
        // Mostly only one of them differs.
        let used = match near {
            0..2 => (used.0, made.1, made.2),
            2..4 => (made.0, used.1, made.2),
            4..6 => (made.0, made.1, used.2),
            6 => made,
            _ => used,
        };
        let service = |(pool, name, key): (usize, usize, u8)| {
            let (backends, _) = two(POOLS[pool]);
            gateway(&backends, Cookie::sealed(NAMES[name], keys(key)))
        };
        let first = send(&service(made), &[""; 0]);
        let token = first.token(NAMES[made.1]).unwrap();
        let answer = send(&service(used), &[format!("{}={token}", NAMES[used.1])]);
        if made == used {
            prop_assert_eq!((answer.verdict(), answer.backend()), (Verdict::Pinned, first.backend()));
        } else {
            let other_pool = (made.1, made.2) == (used.1, used.2);
            let reason = if other_pool { Reason::OtherPool } else { Reason::Forged };
            prop_assert_eq!(answer.verdict(), Verdict::Assigned);
            prop_assert_eq!(answer.reason(), Some(reason));
        }
    }

    #[test]
    fn keys_rotate_and_no_session_is_lost(
        old in 1..5u8,
        ring in prop::collection::vec(1..5u8, 1..4),
    ) {
        let (backends, _) = two("default");
        let first = send(&gateway(&backends, Cookie::sealed("sid", keys(old))), &[""; 0]);
        let token = first.token("sid").unwrap();
        let keys = KeyRing::new(ring.iter().map(|number| key(*number))).unwrap();
        let gateway = gateway(&backends, Cookie::sealed("sid", keys));
        let answer = send(&gateway, &[in_cookie(token.as_bytes())]);
        if ring.contains(&old) {
            prop_assert_eq!((answer.verdict(), answer.backend()), (Verdict::Pinned, first.backend()));
            let renewed = answer.token("sid").is_some();
            prop_assert_eq!(renewed, ring[0] != old, "sealed anew exactly when the key is not the first");
        } else {
            prop_assert_eq!(answer.reason(), Some(Reason::Forged));
        }
    }
}
