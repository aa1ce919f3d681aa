//! Routes in ids of the application: the longest known one decides, nothing of the request changes, and a sealed code
//! is good for its key and its pool only.

#![no_main]

use std::{fmt::Write as _, sync::LazyLock};

use arbitrary::Arbitrary;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header::COOKIE};
use libfuzzer_sys::fuzz_target;
use tower_sticky::affinity::Route;
use tower_sticky_fuzz::{Gateway, cookie_model as model, gateway, header_value, keys, send};

const ROUTE: &str = "x-sticky-route";
const HEADER: HeaderName = HeaderName::from_static("x-session");
/// As many ids of a request are looked at.
const MAX_IDS: usize = 8;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    source: Source,
    part: Part,
    sealed: bool,
    ids: Vec<Vec<Piece<'a>>>,
    /// What else the request has.
    other: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Source {
    Cookie,
    Header,
    Query,
    Path,
    PathParameter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Arbitrary)]
enum Part {
    Whole,
    After,
    Before,
}

#[derive(Debug, Arbitrary)]
enum Piece<'a> {
    Raw(&'a [u8]),
    Separator,
    /// A route, of this or of another gateway; in upper case.
    Route(u8, bool),
}

struct Stage {
    gateway: Gateway,
    /// All routes, and the backend of those that are valid at the gateway.
    routes: Vec<(Vec<u8>, Option<&'static str>)>,
}

const SOURCES: [Source; 5] =
    [Source::Cookie, Source::Header, Source::Query, Source::Path, Source::PathParameter];
const PARTS: [Part; 3] = [Part::Whole, Part::After, Part::Before];

fn route(source: Source, part: Part) -> Route {
    let route = match source {
        Source::Cookie => Route::cookie("sid"),
        Source::Header => Route::header(HEADER.as_str()),
        Source::Query => Route::query("sid"),
        Source::Path => Route::path("/files/{id}"),
        Source::PathParameter => Route::path_parameter("sid"),
    };
    match part {
        Part::Whole => route,
        Part::After => route.after('.'),
        Part::Before => route.before('.'),
    }
}

/// The codes that the backends of a gateway get.
fn codes(gateway: &Gateway) -> Vec<(Vec<u8>, Option<&'static str>)> {
    let mut codes = Vec::new();
    for _ in 0..2 {
        let answer = send(gateway, COOKIE, &[]);
        let code = answer.sent.headers.get(ROUTE).expect("the backend gets its route");
        let backend = ["a", "b"].into_iter().find(|id| Some(*id) == answer.backend());
        codes.push((code.as_bytes().to_vec(), backend));
    }
    codes
}

fn stage(source: Source, part: Part, is_sealed: bool) -> Stage {
    let plain =
        [("a", Some("a")), ("b", Some("b")), ("n.a", Some("b")), ("a.n", Some("b")), ("c", None)];
    let mut routes: Vec<_> = plain.map(|(name, id)| (name.as_bytes().to_vec(), id)).into();
    let sealed = |pool: &str, key| gateway(pool, route(source, part).sealed(keys(key)));
    let ours = match is_sealed {
        true => sealed("pool", 1),
        false => gateway("pool", route(source, part).name("n.a", "b").name("a.n", "b")),
    };
    let own = if is_sealed { codes(&ours) } else { Vec::new() };
    if is_sealed {
        routes.iter_mut().for_each(|(_, backend)| *backend = None);
    }
    let foreign = [codes(&sealed("pool", 2)), codes(&sealed("other", 1))].concat();
    routes.extend(foreign.into_iter().map(|(code, _)| (code, None)));
    routes.extend(own);
    Stage { gateway: ours, routes }
}

fn stage_of(input: &Input<'_>) -> &'static Stage {
    static STAGES: LazyLock<Vec<Stage>> = LazyLock::new(|| {
        let mut all = Vec::new();
        for source in SOURCES {
            for part in PARTS {
                all.extend([false, true].map(|sealed| stage(source, part, sealed)));
            }
        }
        all
    });
    let source = SOURCES.iter().position(|it| *it == input.source).unwrap_or_default();
    let part = PARTS.iter().position(|it| *it == input.part).unwrap_or_default();
    &STAGES[(source * PARTS.len() + part) * 2 + usize::from(input.sealed)]
}

fn id(pieces: &[Piece<'_>], routes: &[(Vec<u8>, Option<&str>)]) -> Vec<u8> {
    let mut id = Vec::new();
    for piece in pieces {
        match *piece {
            Piece::Raw(raw) => id.extend_from_slice(raw),
            Piece::Separator => id.push(b'.'),
            Piece::Route(number, upper) => {
                let route = &routes[usize::from(number) % routes.len()].0;
                let upper = upper && route.len() == 13;
                id.extend(route.iter().map(|it| if upper { it.to_ascii_uppercase() } else { *it }));
            }
        }
    }
    id
}

/// The backend that an id names: the longest of its parts that is a route.
fn named(id: &[u8], part: Part, stage: &Stage, sealed: bool) -> Option<&'static str> {
    let dots: Vec<_> = (0..id.len()).filter(|at| id[*at] == b'.').collect();
    let parts: Vec<&[u8]> = match part {
        Part::Whole => vec![id],
        Part::After => dots.iter().map(|at| &id[at + 1..]).collect(),
        Part::Before => dots.iter().rev().map(|at| &id[..*at]).collect(),
    };
    parts.into_iter().find_map(|part| {
        let part = if sealed { part.to_ascii_lowercase() } else { part.to_vec() };
        stage.routes.iter().find(|(route, _)| *route == part)?.1
    })
}

fn percent(id: &[u8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02X}");
        text
    })
}

/// The request, and the ids in it as the gateway should see them.
fn request(input: &Input<'_>, ids: &[Vec<u8>]) -> (Uri, HeaderMap, Vec<Vec<u8>>) {
    let (mut target, mut headers, mut seen) =
        (String::from("/files"), HeaderMap::new(), Vec::new());
    headers.insert("x-other", header_value(input.other));
    match input.source {
        Source::Cookie => {
            let pairs: Vec<_> = ids.iter().map(|id| [&b"sid="[..], id].concat()).collect();
            let field = header_value(&[&pairs.join(&b';'), &b";"[..], input.other].concat());
            let sent = [bytes::Bytes::copy_from_slice(field.as_bytes())];
            seen = model::values(&sent, "sid").into_iter().map(<[u8]>::to_vec).collect();
            headers.insert(COOKIE, field);
        }
        Source::Header => {
            for id in ids {
                let value = header_value(id);
                seen.push(value.as_bytes().to_vec());
                headers.append(HEADER, value);
            }
        }
        Source::Query => {
            target.push('?');
            for id in ids {
                let _ = write!(target, "&x={}&sid={}", percent(input.other), percent(id));
                // The form's encoding is that of text.
                seen.push(String::from_utf8_lossy(id).into_owned().into_bytes());
            }
        }
        Source::Path => {
            let id = ids.first().cloned().unwrap_or_default();
            let _ = write!(target, "/{}/{}", percent(&id), percent(input.other));
            seen.push(id);
        }
        Source::PathParameter => {
            for id in ids {
                let _ = write!(target, "/{};x=y;sid={}", percent(input.other), percent(id));
                seen.push(id.clone());
            }
        }
    }
    // Empty ones count.
    seen.truncate(MAX_IDS);
    seen.retain(|id| !id.is_empty());
    (target.parse().expect("all is encoded"), headers, seen)
}

fuzz_target!(|input: Input<'_>| {
    let stage = stage_of(&input);
    let ids: Vec<_> = input.ids.iter().take(4).map(|pieces| id(pieces, &stage.routes)).collect();
    let (uri, headers, seen) = request(&input, &ids);
    let expected = seen.iter().find_map(|id| named(id, input.part, stage, input.sealed));
    let send = || {
        let mut request = Request::new(Default::default());
        (*request.uri_mut(), *request.headers_mut()) = (uri.clone(), headers.clone());
        stage.gateway.send(request, HeaderMap::new())
    };
    let answer = send();
    let backend = answer.backend().map(str::to_owned);
    match expected {
        Some(expected) => assert_eq!(backend.as_deref(), Some(expected), "{seen:?}"),
        None => {
            assert_eq!(answer.outcome.reason().is_some(), !seen.is_empty(), "{:?}", answer.outcome);
            if !seen.is_empty() {
                assert_eq!(send().backend(), backend.as_deref(), "one id, one backend");
            }
        }
    }
    assert!(answer.headers.is_empty(), "nothing is added: {:?}", answer.headers);
    assert_eq!(answer.sent.uri, uri);
    let kept = |headers: &HeaderMap| -> Vec<HeaderValue> {
        [COOKIE, HEADER, HeaderName::from_static("x-other")]
            .iter()
            .flat_map(|name| headers.get_all(name))
            .cloned()
            .collect()
    };
    assert_eq!(kept(&answer.sent.headers), kept(&headers));
});
