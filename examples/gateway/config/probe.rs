//! `[health.probe]`: what is sent to a backend, and which responses are good.

use std::{fmt, ops::RangeInclusive};

use serde::{
    Deserialize, Deserializer,
    de::{Unexpected, Visitor},
};
use tower_sticky::{GrpcProbe, HttpProbe, proxy::Upstream};

use super::{Error, file};

/// The probe of every backend.
#[derive(Debug, Clone)]
pub(crate) enum Probe {
    Http(Box<HttpProbe>),
    Grpc(GrpcProbe),
}

impl Probe {
    pub(super) fn new(section: &file::Probe) -> Result<Self, Error> {
        match (&section.path, &section.grpc) {
            (Some(path), None) => http(path, section).map(|probe| Self::Http(Box::new(probe))),
            (None, Some(service)) => grpc(service, section).map(Self::Grpc),
            _ => Err(Error::new(
                "health.probe: expected exactly one of path and grpc: the path of an HTTP request, such as \
                 path = \"/healthz\", or a service that grpc.health.v1 is asked about, such as \
                 grpc = \"shop.Cart\" (grpc = \"\" is the whole server)",
            )),
        }
    }

    /// Warns about a probe that needs HTTP/2 if no backend is spoken to with it.
    pub(super) fn warning(&self, any_http2: bool) -> Option<String> {
        let fails = matches!(self, Self::Grpc(_)) && !any_http2;
        fails.then(|| {
            "health.probe.grpc needs HTTP/2, which no backend is spoken to with: every probe will fail, and \
             all backends will be down; use health.probe.path for backends of HTTP/1.1"
                .to_owned()
        })
    }
}

/// Each option is checked by itself, so that an error names its key.
fn http(path: &str, section: &file::Probe) -> Result<HttpProbe, Error> {
    let mut probe = checked("path", Some(&path), HttpProbe::get(path))?;
    if let Some(method) = &section.method {
        probe = checked("method", Some(method), probe.method(method))?;
    }
    if let Some(host) = &section.host {
        probe = checked("host", Some(host), probe.host(host))?;
    }
    for (name, value) in &section.headers {
        // The value may be a secret.
        probe = checked(&format!("headers.{name}"), None, probe.header(name, value))?;
    }
    if let Some(statuses) = &section.status {
        let all = statuses.iter().flat_map(|Status(range)| range.clone());
        probe = checked("status", None, probe.expect_statuses(all))?;
    }
    Ok(probe)
}

fn checked(
    key: &str,
    value: Option<&dyn fmt::Debug>,
    probe: HttpProbe,
) -> Result<HttpProbe, Error> {
    match tower_sticky::Probe::<Upstream>::check(&probe) {
        Ok(()) => Ok(probe),
        Err(error) => Err(Error::new(match value {
            Some(value) => format!("health.probe.{key} = {value:?}: {error}"),
            None => format!("health.probe.{key}: {error}"),
        })),
    }
}

fn grpc(service: &str, section: &file::Probe) -> Result<GrpcProbe, Error> {
    let unused = [
        ("method", section.method.is_some()),
        ("host", section.host.is_some()),
        ("headers", !section.headers.is_empty()),
        ("status", section.status.is_some()),
    ];
    match unused.into_iter().find(|(_, is_set)| *is_set) {
        Some((key, _)) => Err(Error::new(format!(
            "health.probe.{key} is for an HTTP probe; leave it out, or use path instead of grpc"
        ))),
        None => Ok(GrpcProbe::new().service(service)),
    }
}

/// The statuses of one entry of `status`: a number, or a range in a string.
#[derive(Debug, Clone)]
pub(crate) struct Status(RangeInclusive<u16>);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Statuses;

        impl Visitor<'_> for Statuses {
            type Value = Status;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status from 200 to 599, or a range of them such as \"200-299\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Status, E> {
                match u16::try_from(number) {
                    Ok(status @ 200..=599) => Ok(Status(status..=status)),
                    _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Status, E> {
                let range = text.split_once('-').and_then(|(first, last)| {
                    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
                    let is_valid = first >= 200 && first <= last && last <= 599;
                    is_valid.then_some(Status(first..=last))
                });
                range.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Statuses)
    }
}
