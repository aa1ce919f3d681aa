//! Whether the time that a token takes tells what is wrong with it: good, expired and forged tokens, in short batches
//! that alternate, and the median of the batches.
//!
//! `RUSTFLAGS="--cfg fuzzing" cargo run --release -p tower-sticky-benches --bin timing`. Only with that flag can the opening
//! be called by itself: from the `Cookie` field to the backend, or to the reason against the token. The whole
//! request is measured, too, with an application that begins no session, so that no token is issued.

#[cfg(not(fuzzing))]
fn main() {
    println!("this needs RUSTFLAGS=\"--cfg fuzzing\"");
}

#[cfg(fuzzing)]
fn main() {
    measured::main();
}

#[cfg(fuzzing)]
mod measured {
    use std::{
        convert::Infallible,
        future::{Ready, ready},
        hint::black_box,
        task::{Context, Poll},
        time::{Duration, Instant, SystemTime},
    };

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use tower_service::Service;
    use tower_sticky::{
        Backends, Key, KeyRing, Reason, SessionAction, StickyLayer, WallClock, affinity::Cookie,
        fuzzing::Reader,
    };
    use tower_sticky_benches::{call, enter_runtime, keys, pin, request};

    const NAME: &str = "SERVER_ID";
    const NOW: u64 = 1_900_000_000;
    const BACKENDS: usize = 16;
    /// Tokens of a kind, so that none is in a cache by itself.
    const TOKENS: usize = 64;
    const ROUNDS: usize = 4000;

    /// An application that begins no session.
    #[derive(Debug, Clone)]
    struct NoPin;

    impl Service<Request<()>> for NoPin {
        type Response = Response<Empty<Bytes>>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Empty<Bytes>>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            let mut response = Response::new(Empty::new());
            response.extensions_mut().insert(SessionAction::NoPin);
            ready(Ok(response))
        }
    }

    #[derive(Debug, Clone, Copy)]
    struct Fixed(u64);

    impl WallClock for Fixed {
        fn now(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_secs(self.0)
        }
    }

    fn cookie(keys: KeyRing) -> Cookie {
        let hour = Duration::from_secs(3600);
        Cookie::sealed(NAME, keys).idle_timeout(hour).absolute_timeout(8 * hour)
    }

    fn layer<S: Clone + Send + Sync + 'static>(
        backends: Backends<S>,
        keys: KeyRing,
        now: u64,
    ) -> StickyLayer<S> {
        StickyLayer::new(backends, cookie(keys)).clock(Fixed(now))
    }

    /// Cookies that a gateway with these keys and this clock has made.
    fn made(pool: &str, keys: &KeyRing, now: u64) -> Vec<String> {
        let backends = Backends::named(pool);
        for (id, backend) in
            (0..BACKENDS).map(|i| (format!("b{i}"), tower_sticky_benches::ready_backend()))
        {
            backends.insert(&id, backend).expect("each id is new");
        }
        let service = layer(backends, keys.clone(), now).into_service();
        (0..TOKENS).map(|_| pin(&service)).collect()
    }

    /// With one character of the authentication tag changed.
    fn forged(cookies: &[String]) -> Vec<String> {
        let change = |cookie: &String| {
            let at = cookie.len() - 5;
            let other = if cookie.as_bytes()[at] == b'A' { "B" } else { "A" };
            format!("{}{other}{}", &cookie[..at], &cookie[at + 1..])
        };
        cookies.iter().map(change).collect()
    }

    /// The number of the key in a token: the last six bits of its first byte.
    fn key_number(cookie: &str) -> u8 {
        let digit = |at: usize| match cookie.as_bytes()[NAME.len() + 1 + at] {
            upper @ b'A'..=b'Z' => upper - b'A',
            lower @ b'a'..=b'z' => lower - b'a' + 26,
            number @ b'0'..=b'9' => number - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        (digit(0) << 2 | digit(1) >> 4) & 0x3f
    }

    /// Tokens of another key than that of the gateway, whose number is the same or another one.
    fn other_key(same_number: bool) -> Vec<String> {
        let ours = key_number(&made("default", &keys(), NOW)[0]);
        let all = (1..=u8::MAX).map(|step| {
            let secret: Vec<_> =
                (0..32).map(|i: u8| i.wrapping_mul(step).wrapping_add(step)).collect();
            let key = Key::from_bytes(secret).expect("32 bytes that differ");
            made("default", &KeyRing::new([key]).expect("one key"), NOW)
        });
        let mut matching = all.filter(|cookies| (key_number(&cookies[0]) == ours) == same_number);
        matching.next().expect("one of 255 keys has such a number")
    }

    struct Kind {
        name: &'static str,
        reason: Option<Reason>,
        requests: Vec<Request<()>>,
        times: Vec<f64>,
    }

    fn kinds() -> Vec<Kind> {
        let kind = |name, reason, cookies: Vec<String>| {
            let requests = cookies.iter().map(|cookie| request(cookie)).collect();
            Kind { name, reason, requests, times: Vec::new() }
        };
        let good = made("default", &keys(), NOW);
        let long = good.iter().map(|cookie| format!("{cookie}A")).collect();
        vec![
            kind("good", None, good.clone()),
            kind("good, again", None, made("default", &keys(), NOW)),
            kind("forged: one bit changed", Some(Reason::Forged), forged(&good)),
            kind("forged: another key", Some(Reason::Forged), other_key(true)),
            kind("of an unknown key number", Some(Reason::Forged), other_key(false)),
            kind(
                "expired: idle",
                Some(Reason::ExpiredIdle),
                made("default", &keys(), NOW - 2 * 3600),
            ),
            kind(
                "expired: absolute",
                Some(Reason::ExpiredAbsolute),
                made("default", &keys(), NOW - 9 * 3600),
            ),
            kind("of another pool", Some(Reason::OtherPool), made("other", &keys(), NOW)),
            kind("malformed: too long", Some(Reason::Malformed), long),
        ]
    }

    fn median(values: &mut [f64]) -> f64 {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// Measures all kinds in turn, and prints the median of each and its difference to the first one.
    fn compare(title: &str, mut run: impl FnMut(&Request<()>)) {
        let mut kinds = kinds();
        for round in 0..ROUNDS {
            let count = kinds.len();
            for position in 0..count {
                // Each kind comes after each other one.
                let kind = &mut kinds[(position + round) % count];
                let start = Instant::now();
                kind.requests.iter().for_each(&mut run);
                let time = start.elapsed();
                kind.times.push(time.as_secs_f64() * 1e9 / TOKENS as f64);
            }
        }
        println!("{title}, {ROUNDS} batches of {TOKENS} each, median in ns:");
        let base = median(&mut kinds[0].times);
        for kind in &mut kinds {
            let quartile = kind.times.len() / 4;
            let median = median(&mut kind.times);
            let (low, high) = (kind.times[quartile], kind.times[3 * quartile]);
            println!(
                "  {:26} {median:7.1} ({low:.1} to {high:.1}) {:+7.1}",
                kind.name,
                median - base
            );
        }
    }

    pub(super) fn main() {
        enter_runtime();
        let backends: Backends<NoPin> =
            Backends::from_iter((0..BACKENDS).map(|i| (format!("b{i}"), NoPin)));
        let reader =
            Reader::new(backends.clone(), &cookie(keys()), Fixed(NOW)).expect("it is valid");
        for kind in kinds() {
            for request in &kind.requests {
                assert_eq!(reader.read(request).err().flatten(), kind.reason, "{}", kind.name);
            }
        }
        compare("the opening", |request| {
            let _ = black_box(reader.read(black_box(request)));
        });
        let mut service = layer(backends, keys(), NOW).into_service();
        compare("the whole request, without a new token", |request| {
            drop(black_box(call(&mut service, black_box(request).clone())));
        });
    }
}
