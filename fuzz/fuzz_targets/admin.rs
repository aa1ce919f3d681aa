//! JSON bodies of the admin interface: what is refused changes nothing, what is accepted is in force, and each answer
//! is JSON.

#![no_main]

use std::cell::RefCell;

use arbitrary::Arbitrary;
use axum::{
    Router,
    body::{Body, to_bytes},
};
use http::{Method, Request, StatusCode};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use tower_sticky::{
    BackendStatus, Backends, Mode, Peer, PoolError, StickyLayer,
    admin::{self, Application, NewBackend},
    affinity::Cookie,
};
use tower_sticky_fuzz::{Echo, keys, two};

const MODES: [&str; 4] = ["active", "draining", "disabled", "gone"];
const THENS: [&str; 4] = ["repin", "borrow", "reject", "gone"];
/// The longest deadline, in seconds.
const LONGEST: u32 = 366 * 24 * 3600;

#[derive(Debug, Arbitrary)]
enum Input<'a> {
    Raw(u8, &'a [u8]),
    Patch(Patch),
    Explain([Option<&'a str>; 4]),
}

#[derive(Debug, Arbitrary)]
struct Patch {
    mode: Option<u8>,
    weight: Option<u32>,
    max_connections: Option<u32>,
    deadline: Option<u32>,
    then: Option<u8>,
    hand_over: Option<u32>,
    unknown: bool,
}

impl Patch {
    fn mode(&self) -> Option<&'static str> {
        self.mode.map(|number| MODES[usize::from(number) % MODES.len()])
    }

    fn json(&self) -> Value {
        let then = self.then.map(|number| THENS[usize::from(number) % THENS.len()]);
        let all = [
            ("mode", self.mode().map(Value::from)),
            ("weight", self.weight.map(Value::from)),
            ("max_connections", self.max_connections.map(Value::from)),
            ("deadline", self.deadline.map(|seconds| format!("{seconds}s").into())),
            ("then", then.map(Value::from)),
            ("hand_over", self.hand_over.map(Value::from)),
            ("unknown", self.unknown.then_some(Value::Null)),
        ];
        let present = all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(present.collect::<Map<_, _>>())
    }

    /// Whether it is to be accepted.
    fn is_valid(&self) -> bool {
        let drains = self.mode() == Some("draining");
        let is_named = |number: Option<u8>| number.is_none_or(|number| number % 4 != 3);
        !self.unknown
            && is_named(self.mode)
            && is_named(self.then)
            && self.deadline.is_none_or(|seconds| drains && seconds <= LONGEST)
            && (self.then.is_none() || self.deadline.is_some())
            && self.hand_over.is_none_or(|rate| drains && rate > 0)
    }
}

/// Accepts what is asked for, and remembers nothing.
struct Adds;

impl Application for Adds {
    fn put(&self, _: &str, new: &NewBackend) -> Result<bool, PoolError> {
        assert!(new.zone.as_deref() != Some(""), "{new:?}");
        Ok(false)
    }
}

struct Stage {
    runtime: Runtime,
    app: Router,
    backends: Backends<Echo>,
}

fn stage() -> Stage {
    let (backends, _) = two("default");
    let layer = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys(1)));
    let app = admin::router(backends.clone()).layer(&layer).application(Adds).build();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    Stage { runtime, app, backends }
}

impl Stage {
    fn backend(&self) -> BackendStatus {
        self.backends.get("a").expect("it is there")
    }

    fn call(&self, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
        let peer = Peer::new(([127, 0, 0, 1], 5).into());
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.extension(peer).body(Body::from(body)).expect("a request");
        self.runtime.block_on(async {
            let response = self.app.clone().oneshot(request).await.expect("it cannot fail");
            let (parts, body) = response.into_parts();
            let body = to_bytes(body, usize::MAX).await.expect("a body in memory");
            let json = serde_json::from_slice(&body);
            let json = json.unwrap_or_else(|error| panic!("{error}: {}", body.escape_ascii()));
            assert!(parts.status.as_u16() < 500, "{json}");
            (parts.status, json)
        })
    }

    fn patch(&self, body: Vec<u8>) -> (StatusCode, Value) {
        let before = self.backend();
        let (status, answer) = self.call(Method::PATCH, "/backends/a", body);
        if status != StatusCode::OK {
            let after = self.backend();
            let of = |it: &BackendStatus| (it.mode, it.weight, it.limit, it.drain.is_some());
            assert_eq!(of(&before), of(&after), "what is refused changes nothing: {answer}");
            assert!(answer["error"].is_string(), "{answer}");
        }
        (status, answer)
    }
}

fuzz_target!(|input: Input<'_>| {
    thread_local!(static STAGE: RefCell<Stage> = RefCell::new(stage()));
    STAGE.with_borrow(|stage| {
        let _runtime = stage.runtime.enter();
        stage.backends.set_mode("a", Mode::Active).expect("it is there");
        match input {
            Input::Raw(kind, body) => {
                let body = body.to_vec();
                match kind % 3 {
                    0 => drop(stage.patch(body)),
                    1 => drop(stage.call(Method::PUT, "/backends/a", body)),
                    _ => drop(stage.call(Method::POST, "/explain", body)),
                }
            }
            Input::Patch(patch) => {
                let json = patch.json();
                let (status, answer) = stage.patch(json.to_string().into_bytes());
                assert_eq!(status == StatusCode::OK, patch.is_valid(), "{json}: {answer}");
                if status != StatusCode::OK {
                    return;
                }
                let now = stage.backend();
                assert!(patch.weight.is_none_or(|weight| now.weight == weight), "{json}");
                let limit = patch.max_connections.map(|limit| limit as usize);
                assert!(limit.is_none_or(|limit| now.limit == limit), "{json}");
                assert!(patch.mode().is_none_or(|mode| answer["mode"] == mode), "{json}: {answer}");
            }
            Input::Explain([cookie, header, client, request]) => {
                let body = json!({ "cookie": cookie, "header": header, "client": client, "request": request });
                let body = body.to_string().into_bytes();
                let (status, answer) = stage.call(Method::POST, "/explain", body);
                assert!(matches!(status.as_u16(), 200 | 400), "{answer}");
            }
        }
    });
});
