//! Envelopes: the application gets its own id back, byte for byte, from no gateway with other keys, pool or name, and
//! all that is not the id stays as it was.

#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Request,
    header::{COOKIE, SET_COOKIE},
};
use libfuzzer_sys::fuzz_target;
use tower_sticky::{
    Verdict,
    affinity::Envelope,
    fuzzing::{Carrier, Content, Token},
};
use tower_sticky_fuzz::{
    Answer, Gateway,
    cookie_edit::{Edit, edited},
    gateway, header_value, keys, send,
};

const COOKIE_NAME: &str = "JSESSIONID";
const HEADER_NAME: &str = "x-room";
const HEADER: HeaderName = HeaderName::from_static(HEADER_NAME);
/// An id and its attributes of more bytes than this are not sealed.
const MAX_CONTENT: usize = 2048;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    in_header: bool,
    /// The id that the application sets, and the attributes of its cookie.
    id: &'a [u8],
    attributes: Vec<Attribute<'a>>,
    /// Another cookie that it sets.
    other: &'a [u8],
    /// The fields of the next request.
    sent: Vec<Vec<Piece<'a>>>,
    token: (u64, u64, u32, u32, u32),
    damage: (u16, u8),
}

#[derive(Debug, Arbitrary)]
enum Attribute<'a> {
    Path,
    MaxAge(u16),
    Other(&'a [u8]),
}

#[derive(Debug, Arbitrary)]
enum Piece<'a> {
    /// The envelope, in quotes or not.
    Ours(bool),
    Changed(u16, u8),
    /// One that another gateway has made.
    Foreign(u8),
    /// An id that is in no envelope.
    Plain(&'a [u8]),
    /// Something else in the same field.
    Raw(&'a [u8]),
}

/// A gateway, and those that differ in the key, the pool or the name.
struct Side {
    ours: Gateway,
    foreign: [(Gateway, &'static str); 3],
    /// Envelopes of the latter.
    envelopes: Vec<Vec<u8>>,
}

impl Side {
    fn new(in_header: bool) -> Self {
        let (name, other) = if in_header { (HEADER_NAME, "x-side") } else { (COOKIE_NAME, "SID") };
        let make = |pool: &str, name: &'static str, key| {
            let envelope = if in_header { Envelope::header } else { Envelope::cookie };
            (gateway(pool, envelope(name, keys(key))), name)
        };
        let foreign = [make("pool", name, 2), make("other", name, 1), make("pool", other, 1)];
        let made = foreign.iter().map(|(gateway, name)| {
            let answer = gateway.send(Request::default(), set(in_header, name, b"x", b""));
            value(&answer, in_header, name)
        });
        let envelopes = made.collect();
        Self { ours: make("pool", name, 1).0, foreign, envelopes }
    }
}

/// The headers with which an application sets its id.
fn set(in_header: bool, name: &str, id: &[u8], attributes: &[u8]) -> HeaderMap {
    let (field, value) = match in_header {
        true => (name.parse().expect("a header"), id.to_vec()),
        false => (SET_COOKIE, [name.as_bytes(), b"=", id, attributes].concat()),
    };
    [(field, header_value_exactly(value))].into_iter().collect()
}

fn header_value_exactly(bytes: Vec<u8>) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(bytes)).expect("a header's value")
}

/// The value that an answer sets.
fn value(answer: &Answer, in_header: bool, name: &str) -> Vec<u8> {
    let value = match in_header {
        true => answer.headers.get(name).map(HeaderValue::as_bytes),
        false => answer.cookie(name),
    };
    value.expect("the answer sets the id").to_vec()
}

/// Bytes that may stand in a header, without semicolons.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let value = header_value(bytes);
    value.as_bytes().iter().map(|b| if *b == b';' { b'.' } else { *b }).collect()
}

/// An id that does not remove the cookie.
fn id(bytes: &[u8]) -> Vec<u8> {
    let plain = plain(bytes);
    let id = plain.trim_ascii();
    if id.is_empty() || id.starts_with(b"\"") || id.starts_with(b"ts") {
        return [b"x", id].concat();
    }
    id.to_vec()
}

fn attributes(all: &[Attribute<'_>]) -> Vec<u8> {
    let one = |attribute: &Attribute<'_>| match attribute {
        Attribute::Path => b"; Path=/shop".to_vec(),
        Attribute::MaxAge(age) => format!("; Max-Age={}", u32::from(*age) + 1).into_bytes(),
        Attribute::Other(raw) => [b";x", &plain(raw)[..]].concat(),
    };
    all.iter().take(8).flat_map(one).collect()
}

/// What a client sends.
fn fields(input: &Input<'_>, envelope: &[u8], foreign: &[Vec<u8>]) -> Vec<HeaderValue> {
    let piece = |piece: &Piece<'_>| {
        let quote: &[u8] = if matches!(piece, Piece::Ours(true)) { b"\"" } else { b"" };
        let value = match piece {
            Piece::Ours(_) => envelope.to_vec(),
            Piece::Changed(at, difference) => changed(envelope, *at, *difference),
            Piece::Foreign(number) => foreign[usize::from(*number) % foreign.len()].clone(),
            Piece::Plain(raw) | Piece::Raw(raw) => raw.to_vec(),
        };
        match piece {
            Piece::Raw(_) => value,
            _ if input.in_header => value,
            _ => [COOKIE_NAME.as_bytes(), b"=", quote, &value, quote].concat(),
        }
    };
    let fields = input.sent.iter().take(4);
    if input.in_header {
        return fields.flatten().map(|it| header_value(&piece(it))).collect();
    }
    fields.map(|it| header_value(&it.iter().map(piece).collect::<Vec<_>>().join(&b';'))).collect()
}

fn changed(envelope: &[u8], at: u16, difference: u8) -> Vec<u8> {
    let mut changed = envelope.to_vec();
    let at = usize::from(at) % changed.len();
    changed[at] ^= difference;
    changed
}

/// What the backend should receive: the id in place of the first envelope, and no other one. Whether there was one.
fn expected(in_header: bool, sent: &[Bytes], envelope: &[u8], id: &[u8]) -> (Vec<Bytes>, bool) {
    let mut found = false;
    let mut choose = |value: &[u8]| match value {
        [b't', b's', b'0'..=b'9', b'~', ..] if value == envelope && !found => {
            found = true;
            Edit::Replace(id.to_vec())
        }
        [b't', b's', b'0'..=b'9', b'~', ..] => Edit::Remove,
        _ => Edit::Keep,
    };
    let left = match in_header {
        false => edited(sent, COOKIE_NAME, choose),
        true => sent
            .iter()
            .filter_map(|field| match choose(field) {
                Edit::Keep => Some(field.clone()),
                Edit::Remove => None,
                Edit::Replace(id) => Some(id.into()),
            })
            .collect(),
    };
    (left, found)
}

fn all(headers: &HeaderMap, name: &HeaderName) -> Vec<Bytes> {
    headers.get_all(name).iter().map(|it| Bytes::copy_from_slice(it.as_bytes())).collect()
}

/// Through gateways, as an application and a client see it.
fn check_gateways(input: &Input<'_>, id: &[u8], attributes: &[u8]) {
    static SIDES: LazyLock<[Side; 2]> = LazyLock::new(|| [Side::new(false), Side::new(true)]);
    let (in_header, side) = (input.in_header, &SIDES[usize::from(input.in_header)]);
    let name = if in_header { HEADER_NAME } else { COOKIE_NAME };
    let field = if in_header { HEADER } else { COOKIE };
    let mut answer = set(in_header, name, id, attributes);
    let other = header_value_exactly([b"x", &plain(input.other)[..]].concat());
    answer.append(SET_COOKIE, other.clone());
    let first = side.ours.send(Request::default(), answer);
    let envelope = value(&first, in_header, name);
    assert!(first.headers.get_all(SET_COOKIE).iter().any(|it| it == other), "another cookie");
    let length = id.len() + if in_header { 0 } else { attributes.len() };
    if length > MAX_CONTENT {
        return;
    }
    assert!(envelope.starts_with(b"ts2~"));
    if !in_header {
        let exact = [COOKIE_NAME.as_bytes(), b"=", &envelope, attributes].concat();
        assert!(first.headers.get_all(SET_COOKIE).iter().any(|it| it.as_bytes() == exact));
    }

    let fields = fields(input, &envelope, &side.envelopes);
    let sent: Vec<_> = fields.iter().map(|it| Bytes::copy_from_slice(it.as_bytes())).collect();
    let (left, found) = expected(in_header, &sent, &envelope, id);
    let answer = send(&side.ours, field.clone(), &fields);
    assert_eq!(all(&answer.sent.headers, &field), left);
    if found {
        assert_eq!(answer.outcome.verdict(), Verdict::Pinned);
        assert_eq!(answer.backend(), first.backend());
    } else {
        assert_ne!(answer.outcome.verdict(), Verdict::Pinned);
    }
    assert_eq!(side.ours.violations(), 0);

    for (gateway, name) in &side.foreign {
        let (field, value) = match in_header {
            true => (name.parse().expect("a header"), envelope.clone()),
            false => (COOKIE, [name.as_bytes(), b"=", &envelope].concat()),
        };
        let answer = send(gateway, field.clone(), &[header_value_exactly(value)]);
        assert!(all(&answer.sent.headers, &field).is_empty(), "the backend gets no id");
        assert_ne!(answer.outcome.verdict(), Verdict::Pinned);
    }
}

/// The format itself.
fn check_format(input: &Input<'_>, id: &[u8], attributes: &[u8]) {
    static CARRIERS: LazyLock<[Carrier; 5]> = LazyLock::new(|| {
        let places = [
            ("x", "p", "n", 1),
            ("x", "p", "n", 2),
            ("y", "p", "n", 1),
            ("x", "q", "n", 1),
            ("x", "p", "m", 1),
        ];
        places.map(|(purpose, pool, name, key)| Carrier::new(keys(key), purpose, pool, name))
    });
    let (backend, session, issued, seen, expires) = input.token;
    let token = Token { backend, session, epoch: session >> 16, issued, seen };
    let content = Content { expires, id: id.to_vec(), attributes: attributes.to_vec() };
    let [ours, foreign @ ..] = &*CARRIERS;
    let Some(envelope) = ours.wrap(token, &content) else {
        assert!(id.len() + attributes.len() > MAX_CONTENT);
        return;
    };
    assert_eq!(ours.unwrap(&envelope), Ok((token, content, 0)));
    assert!(foreign.iter().all(|carrier| carrier.unwrap(&envelope).is_err()));
    let (at, difference) = input.damage;
    if difference != 0 {
        assert!(ours.unwrap(&changed(&envelope, at, difference)).is_err());
    }
    assert!(ours.unwrap(&envelope[..usize::from(at) % envelope.len()]).is_err());
    assert!(ours.unwrap(input.other).is_err());
}

fuzz_target!(|input: Input<'_>| {
    let (id, attributes) = (id(input.id), attributes(&input.attributes));
    check_gateways(&input, &id, &attributes);
    check_format(&input, input.id, input.other);
});
