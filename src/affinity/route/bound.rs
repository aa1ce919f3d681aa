//! `Route` with its configuration checked: finds the backend in an id.

use std::{collections::HashMap, fmt};

use http::HeaderMap;

use super::{codes::Codes, separator::Part};
use crate::{
    affinity::{
        BoundAffinity, Head, KeyRole, ReadContext, Reading,
        found::{FindingKind, Findings, Found},
        id_source::BoundSource,
    },
    hash::KeyHasher,
    id::{BackendId, MAX_ID_LEN},
    outcome::Reason,
    pool::Index,
    token::{ROUTE_LEN, RouteCode},
};

pub(super) struct Bound {
    pub(super) source: BoundSource,
    pub(super) part: Part,
    pub(super) format: Format,
    /// The same on every gateway, so that they agree where a request goes while its backend is out.
    pub(super) hasher: KeyHasher,
}

/// What a route looks like.
pub(super) enum Format {
    Plain(Names),
    Sealed(Codes),
}

/// The names of backends in routes that are not their ids.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) by_name: HashMap<Box<[u8]>, BackendId>,
    pub(super) by_id: HashMap<BackendId, Box<str>>,
}

impl Names {
    /// The position of the backend that `route` names.
    fn position(&self, route: &[u8], index: &Index) -> Option<usize> {
        match self.by_name.get(route) {
            Some(id) => index.position(id.tag()),
            None => index.position_of(route),
        }
    }
}

impl Bound {
    /// The position of the backend that `id` names.
    #[inline]
    fn position(&self, id: &[u8], index: &Index) -> Result<usize, Reason> {
        let mut reason = Reason::Malformed;
        let position = match &self.format {
            Format::Plain(names) => self.part.find(id, MAX_ID_LEN, |route| {
                reason = Reason::Unknown;
                names.position(route, index)
            }),
            Format::Sealed(codes) => self.part.find(id, ROUTE_LEN, |route| {
                let code = RouteCode::parse(route)?;
                let tag = codes.tag(code, index);
                reason = if tag.is_some() { Reason::Unknown } else { Reason::Forged };
                index.position(tag?)
            }),
        };
        position.ok_or(reason)
    }

    /// The position in the ring of the key of the code in `id` for a backend.
    fn key_of(&self, id: &[u8], backend: &BackendId, index: &Index) -> Option<usize> {
        let Format::Sealed(codes) = &self.format else { return None };
        let mut key = None;
        self.part.find(id, ROUTE_LEN, |route| {
            let code = RouteCode::parse(route)?;
            key = codes.key_of(code, backend);
            index.position(codes.tag(code, index)?)
        })?;
        key
    }
}

impl BoundAffinity for Bound {
    fn read(&self, head: &Head<'_>, cx: &mut ReadContext<'_>) -> Reading {
        // Without a usable route the first id counts: its requests go to one backend, too.
        let (mut key, mut reason) = (None, None);
        let found = self.source.find(head, |id| match self.position(id, cx.index) {
            Ok(position) => Some((position, self.hasher.hash(id))),
            Err(why) => {
                key = key.or_else(|| Some(self.hasher.hash(id)));
                reason = reason.or(Some(why));
                None
            }
        });
        match found {
            Some((position, key)) => Reading {
                position: Some(position),
                key: Some(key),
                key_role: KeyRole::NamesBackend,
                ..Reading::default()
            },
            None => Reading { key, reason, ..Reading::default() },
        }
    }

    fn saves_nothing(&self, _: &HeaderMap) -> bool {
        true
    }

    fn inspect(&self, head: &Head<'_>, cx: &mut ReadContext<'_>, found: &mut Findings) -> Reading {
        let carrier = self.source.to_string();
        let _ = self.source.find(head, |id| {
            let route = Found::new(FindingKind::Route, &*carrier);
            found.push(match self.position(id, cx.index) {
                Ok(position) => {
                    let state = &cx.index.states()[position];
                    let key = self.key_of(id, &state.id, cx.index);
                    Found { backend: Some(state.tag), key, ..route }
                }
                Err(reason) => Found { problem: Some(reason), ..route },
            });
            None::<()>
        });
        self.read(head, cx)
    }

    fn route(&self, tag: u64, id: &BackendId) -> Option<String> {
        match &self.format {
            Format::Plain(names) => match names.by_id.get(id) {
                Some(name) => Some(name.to_string()),
                None => Some(id.as_str().to_owned()),
            },
            Format::Sealed(codes) => Some(codes.first(tag, id)?.to_string()),
        }
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("source", &self.source)
            .field("part", &self.part)
            .finish_non_exhaustive()
    }
}
