//! Requests with tokens, in cookies: a gateway honours those that it has made, until they expire, and no others, and
//! the backend receives what is not ours, byte for byte.

#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{HeaderValue, header::COOKIE};
use libfuzzer_sys::fuzz_target;
use std::time::Duration;
use tower_sticky::{Reason, Verdict, affinity::Cookie};
use tower_sticky_fuzz::{
    Answer, Gateway, cookie_model as model, gateway, header_value, keys, send,
};

const NAME: &str = "sid";
const IDLE: i64 = 1000;
const ABSOLUTE: i64 = 5000;
/// The default of the clock skew that is allowed for.
const SKEW: i64 = 3600;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    plain: bool,
    /// How long ago the tokens were made, in seconds.
    age: i16,
    fields: Vec<Vec<Piece<'a>>>,
}

#[derive(Debug, Arbitrary)]
enum Piece<'a> {
    Raw(&'a [u8]),
    /// A cookie of our name.
    Ours(Value<'a>, u8),
    /// The value of one of another name.
    Other(Value<'a>),
}

#[derive(Debug, Arbitrary)]
enum Value<'a> {
    /// The token with this number.
    Token(u8),
    /// One with a changed byte.
    Changed(u8, u8, u8),
    Raw(&'a [u8]),
}

struct Stage {
    sealed: Gateway,
    plain: Gateway,
    /// Tokens, and the backend of those that are valid at the gateway.
    tokens: Vec<(Vec<u8>, Option<&'static str>)>,
}

fn sealed(pool: &str, name: &str, key: u8) -> Gateway {
    let cookie = Cookie::sealed(name, keys(key));
    let cookie = cookie.idle_timeout(Duration::from_secs(IDLE as u64));
    gateway(pool, cookie.absolute_timeout(Duration::from_secs(ABSOLUTE as u64)))
}

fn stage() -> &'static Stage {
    static STAGE: LazyLock<Stage> = LazyLock::new(|| {
        let ours = sealed("pool", NAME, 1);
        let mut tokens = Vec::new();
        let others = [("pool", NAME, 2), ("other", NAME, 1), ("pool", "side", 1)];
        for _ in 0..2 {
            let answer = send(&ours, COOKIE, &[]);
            let backend = ["a", "b"].into_iter().find(|id| Some(*id) == answer.backend());
            tokens.push((answer.cookie(NAME).expect("a token").to_vec(), backend));
        }
        for (pool, name, key) in others {
            let answer = send(&sealed(pool, name, key), COOKIE, &[]);
            tokens.push((answer.cookie(name).expect("a token").to_vec(), None));
        }
        for id in ["a", "b", "c", ""] {
            tokens.push((id.into(), None));
        }
        Stage { sealed: ours, plain: gateway("pool", Cookie::plain(NAME)), tokens }
    });
    &STAGE
}

fn value(value: &Value<'_>) -> Vec<u8> {
    let tokens = &stage().tokens;
    let token = |number: u8| tokens[usize::from(number) % tokens.len()].0.clone();
    match *value {
        Value::Token(number) => token(number),
        Value::Changed(number, at, difference) => {
            let mut token = token(number);
            let length = token.len().max(1);
            if let Some(byte) = token.get_mut(usize::from(at) % length) {
                *byte ^= difference;
            }
            token
        }
        Value::Raw(raw) => raw.to_vec(),
    }
}

fn field(pieces: &[Piece<'_>]) -> HeaderValue {
    let mut parts = Vec::new();
    for piece in pieces {
        parts.push(match piece {
            Piece::Raw(raw) => raw.to_vec(),
            Piece::Ours(content, form) => {
                let (name, value) = (NAME.as_bytes(), value(content));
                let (space, quote): (&[u8], &[u8]) = (
                    if form & 1 == 0 { b" " } else { b"" },
                    if form & 6 == 6 { b"\"" } else { b"" },
                );
                [space, name, b"=", quote, &value, quote].concat()
            }
            Piece::Other(content) => [b"xsid=", &value(content)[..]].concat(),
        });
    }
    header_value(&parts.join(&b';'))
}

/// The backend of the first usable one of the values, or why the first one is not usable.
fn expected(values: &[&[u8]], input: &Input<'_>) -> Result<&'static str, Option<Reason>> {
    let age = i64::from(input.age);
    let read = |value: &&[u8]| {
        if input.plain {
            let id = ["a", "b"].into_iter().find(|id| id.as_bytes() == *value);
            let reason =
                if (1..=128).contains(&value.len()) { Reason::Unknown } else { Reason::Malformed };
            return id.ok_or(Some(reason));
        }
        let token = stage().tokens.iter().find(|(token, _)| token == value);
        match token {
            Some((_, Some(_))) if age < -SKEW => Err(Some(Reason::Malformed)),
            Some((_, Some(_))) if age >= ABSOLUTE => Err(Some(Reason::ExpiredAbsolute)),
            Some((_, Some(_))) if age >= IDLE => Err(Some(Reason::ExpiredIdle)),
            Some((_, Some(backend))) => Ok(*backend),
            // Malformed, forged or of another pool.
            _ => Err(None),
        }
    };
    let mut all = values.iter().map(read).collect::<Vec<_>>().into_iter();
    let first = all.next().unwrap_or(Err(None));
    first.or_else(|reason| all.find_map(Result::ok).ok_or(reason))
}

fn check(input: &Input<'_>, sent: &[Bytes], answer: &Answer) {
    let values = model::values(sent, NAME);
    let token = answer.cookie(NAME);
    assert_eq!(answer.status, 200);
    match expected(&values, input) {
        Ok(backend) => {
            assert_eq!(answer.outcome.verdict(), Verdict::Pinned);
            assert_eq!(answer.backend(), Some(backend));
            let refresh = !input.plain && !(0..IDLE / 4).contains(&i64::from(input.age));
            assert_eq!(token.is_some(), refresh, "nothing changed, nothing is sent");
        }
        Err(reason) => {
            assert_eq!(answer.outcome.verdict(), Verdict::Assigned);
            assert!(token.is_some(), "a bad token is replaced");
            assert_eq!(answer.outcome.reason().is_some(), !values.is_empty());
            if reason.is_some() {
                assert_eq!(answer.outcome.reason(), reason);
            }
        }
    }
    let seen = answer.sent.headers.get_all(COOKIE).iter();
    let seen: Vec<_> = seen.map(|field| Bytes::copy_from_slice(field.as_bytes())).collect();
    assert_eq!(seen, model::without(sent, NAME), "the backend receives what is not ours");
}

fuzz_target!(|input: Input<'_>| {
    let stage = stage();
    let gateway = if input.plain { &stage.plain } else { &stage.sealed };
    let fields: Vec<_> = input.fields.iter().take(4).map(|pieces| field(pieces)).collect();
    let sent: Vec<_> = fields.iter().map(|it| Bytes::copy_from_slice(it.as_bytes())).collect();
    gateway.set_clock(input.age.into());
    let answer = send(gateway, COOKIE, &fields);
    check(&input, &sent, &answer);
    assert_eq!(gateway.violations(), 0);
});
