//! Drains, and how far they have come.

use std::time::Duration;

use maud::{Markup, html};

use super::{layout::Frame, words};
use crate::{
    admin::view::{BackendView, PoolView},
    pool::Mode,
};

/// How many drains are shown.
const MOST: usize = 50;

pub(super) fn drains(frame: &Frame, pool: &PoolView) -> Markup {
    let draining: Vec<_> =
        pool.backends.iter().filter(|backend| backend.status.mode == Mode::Draining).collect();
    html! {
        @if !draining.is_empty() {
            h2 { "Drains" }
            @for backend in draining.iter().take(MOST) { (drain(frame, backend)) }
        }
    }
}

/// How far a drain has come.
pub(super) fn drain(frame: &Frame, backend: &BackendView) -> Markup {
    let id = backend.id();
    let status = &backend.status;
    html! {
        section.card aria-label=(format!("Drain of {id}")) {
            p {
                a href=(frame.backend_link(id, "")) { (id) } " "
                @match &status.drain {
                    Some(drain) if drain.completed => {
                        "has no sessions left. It can be stopped, or removed."
                    }
                    Some(drain) => {
                        "has been draining for " (words::duration(drain.elapsed)) "; "
                        (left(backend)) " and "
                        (words::plural(status.in_flight as u64, "request")) " in flight are left. "
                        (end(backend, drain.remaining))
                    }
                    None => {
                        "takes no new sessions; " (left(backend)) " are left. No end was set."
                    }
                }
            }
            @if let Some(progress) = backend.drain_progress() {
                progress aria-label=(format!("Progress of the drain of {id}")) max="100" value=(format!("{:.0}", progress * 100.0)) {}
            }
        }
    }
}

/// When it ends: as it has gone so far, and by its deadline.
fn end(backend: &BackendView, deadline: Option<Duration>) -> String {
    let latest = deadline.map(|deadline| format!("at the latest in {}", words::duration(deadline)));
    let expected = backend.drain_left().filter(|left| deadline != Some(*left));
    match (expected.map(words::duration), latest) {
        (Some(expected), Some(latest)) => format!("It ends in about {expected}, {latest}."),
        (Some(expected), None) => format!("It ends in about {expected}."),
        (None, Some(latest)) => format!("It ends {latest}."),
        (None, None) => {
            "When it ends is not known: it has no deadline, and no session has left yet.".to_owned()
        }
    }
}

fn left(backend: &BackendView) -> String {
    let sessions = words::plural(backend.sessions(), "session");
    match backend.status.sessions {
        Some(_) => sessions,
        None => format!("at least {sessions}"),
    }
}
