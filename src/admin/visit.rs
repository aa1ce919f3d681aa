//! `Visit`: what a page needs to know of its request.

use std::time::SystemTime;

use axum::{
    extract::{OriginalUri, Request, State},
    http::{StatusCode, Uri},
    middleware::Next,
    response::Response,
};

use super::{
    page::{Frame, Live, Page, login_page},
    state::Admin,
};
use crate::session::Peer;

/// What a page needs to know of its request.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub(super) frame: Frame,
    pub(super) now: SystemTime,
    pub(super) https: bool,
}

impl Visit {
    pub(super) fn new(admin: &Admin, uri: &Uri, request: &Request) -> Self {
        let (headers, now) = (request.headers(), SystemTime::now());
        let token = admin.access.rules().token.clone();
        let can_log_out =
            token.is_some_and(|token| admin.sessions.is_logged_in(headers, &token, now));
        let peer = request.extensions().get::<Peer>();
        let frame = Frame {
            base: base(uri.path(), request.uri().path()),
            title: admin.title.to_string(),
            can_log_out,
            read_only: admin.read_only,
            form_token: admin.sessions.form_token(headers, now),
        };
        Self { frame, now, https: peer.is_some_and(|peer| peer.is_https(headers)) }
    }
}

/// Where the router is mounted: the path that the client asked for, without the part that is ours.
fn base(original: &str, own: &str) -> String {
    let base = original.strip_suffix(own).unwrap_or(original);
    base.trim_end_matches('/').to_owned()
}

/// Adds the [`Visit`] to the request.
pub(super) async fn prepare(
    State(admin): State<Admin>,
    OriginalUri(uri): OriginalUri,
    mut request: Request,
    next: Next,
) -> Response {
    let visit = Visit::new(&admin, &uri, &request);
    request.extensions_mut().insert(visit);
    next.run(request).await
}

/// The login page, in place of a page that needs the token.
pub(super) fn ask_to_log_in(frame: &Frame, problem: Option<&str>) -> Response {
    let content = login_page(frame, problem);
    frame.page_with(StatusCode::UNAUTHORIZED, Page::Other, "Log in", Live::No, &content)
}
