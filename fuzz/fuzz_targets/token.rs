//! Tokens with arbitrary fields: a sealed one opens as it was, and under no other key, pool, name or purpose, and not
//! when it was changed.

#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tower_sticky::{
    KeyRing, Reason,
    fuzzing::{Carrier, Token, route_code},
};
use tower_sticky_fuzz::{key, keys};

/// Names that are ambiguous when they are concatenated.
const NAMES: [&str; 4] = ["", "c", "bc", "abc"];

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    fields: (u64, u64, u64, u32, u32),
    made: Place,
    used: Place,
    /// Positions in the token, and what to change there.
    damage: Vec<(u8, u8)>,
    length: u8,
    raw: &'a [u8],
}

/// Where a token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
struct Place {
    key: u8,
    purpose: u8,
    pool: u8,
    name: u8,
}

impl Place {
    /// The one with this number, of 192: three keys, and four of each name.
    fn limited(self) -> Self {
        let Self { key, purpose, pool, name } = self;
        Self { key: key % 3, purpose: purpose % 4, pool: pool % 4, name: name % 4 }
    }

    fn carrier(self) -> &'static Carrier {
        static CARRIERS: LazyLock<Vec<Carrier>> = LazyLock::new(|| {
            let rings = [keys(1), keys(2), KeyRing::new([key(3), key(4)]).expect("two keys")];
            let names = || NAMES.into_iter();
            let mut all = Vec::new();
            for ring in rings {
                for purpose in names() {
                    for pool in names() {
                        all.extend(names().map(|it| Carrier::new(ring.clone(), purpose, pool, it)));
                    }
                }
            }
            all
        });
        let [key, purpose, pool, name] =
            [self.key, self.purpose, self.pool, self.name].map(usize::from);
        &CARRIERS[((key * 4 + purpose) * 4 + pool) * 4 + name]
    }
}

fuzz_target!(|input: Input<'_>| {
    let (backend, session, epoch, issued, seen) = input.fields;
    let token = Token { backend, session, epoch: epoch >> 16, issued, seen };
    let (made, used) = (input.made.limited(), input.used.limited());
    let text = made.carrier().seal(token).expect("there are random numbers");
    assert_eq!(made.carrier().open(text.as_bytes()), Ok((token, 0)));

    let expected = match made {
        _ if made == used => Ok((token, 0)),
        _ if (Place { pool: used.pool, ..made }) == used => Err(Reason::OtherPool),
        _ => Err(Reason::Forged),
    };
    assert_eq!(used.carrier().open(text.as_bytes()), expected);

    let mut changed = text.clone().into_bytes();
    for (at, difference) in &input.damage {
        changed[usize::from(*at) % text.len()] ^= difference;
    }
    if usize::from(input.length) < changed.len() && input.length % 4 == 0 {
        changed.truncate(input.length.into());
    }
    if changed != text.as_bytes() {
        assert!(made.carrier().open(&changed).is_err(), "{changed:?} for {text}");
    }
    assert!(made.carrier().open(input.raw).is_err());

    if let Some(code) = route_code(input.raw) {
        assert_eq!(code.as_bytes(), input.raw.to_ascii_lowercase(), "it is written as it was read");
    }
});
