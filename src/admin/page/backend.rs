//! The page of one backend.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    cells::{actions, mode_tag, sessions, state_tag, traffic},
    drains::drain,
    layout::{Frame, time},
    moves::moves_table,
    words,
};
use crate::{
    admin::view::BackendView,
    pool::{Mode, MoveRecord},
};

/// The page of one backend.
pub(in crate::admin) fn backend_page(
    frame: &Frame,
    backend: &BackendView,
    moves: &[MoveRecord],
    now: SystemTime,
) -> Markup {
    let status = &backend.status;
    html! {
        h1 { "Backend " (backend.id()) }
        @if status.mode == Mode::Draining { (drain(frame, backend)) br; }
        section.card aria-label="Status" {
            dl.rows {
                @if let Some(url) = &backend.about.url { dt { "URL" } dd { (url) } }
                dt { "State" }
                dd {
                    (state_tag(backend)) " since " (time(status.state_since)) " UTC, "
                    (words::duration(words::ago(status.state_since, now))) ": " (backend.why())
                }
                @if let Some(failure) = &status.probe_failure { dt { "Last failed probe" } dd { (failure) } }
                dt { "Mode" }
                dd {
                    (mode_tag(status.mode)) " since " (time(status.mode_since)) " UTC, "
                    (words::duration(words::ago(status.mode_since, now)))
                }
                dt { "Weight" }
                dd { (status.weight) ", which is " (words::percent(backend.ought)) " of new sessions now" }
                dt { "New sessions" }
                dd {
                    @match backend.share {
                        Some(share) => { (words::percent(share)) " of those of the last ten minutes" }
                        None => "none in the last ten minutes",
                    }
                }
                dt { "Sessions" } dd { (sessions(backend)) }
                dt { "In flight" } dd { (words::count(status.in_flight as u64)) ", " (words::count(status.waiting as u64)) " waiting" }
                dt { "Limit" } dd { @if status.limit > 0 { (words::count(status.limit as u64)) } @else { "none" } }
                dt { "Requests" } dd { (words::count(status.requests)) " since it joined" }
                dt { "Traffic" } dd { (traffic(backend)) }
            }
            @if !frame.read_only { br; (actions(frame, backend)) }
        }
        h2 { "Moves from or to it" }
        (moves_table(moves, usize::MAX, now))
    }
}
