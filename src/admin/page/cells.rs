//! What is shown of a backend, both in the table and on its own page.

use maud::{Markup, html};

use super::{layout::Frame, sparkline::sparkline, words};
use crate::{
    admin::view::BackendView,
    pool::{Mode, State},
};

pub(super) fn sessions(backend: &BackendView) -> Markup {
    let status = &backend.status;
    html! {
        @match status.sessions {
            Some(sessions) => (words::count(sessions)),
            None => { "≥ " (words::count(status.sessions_seen)) }
        }
        @if status.mode == Mode::Draining { span.sub { "leaving" } }
        @if status.unconfirmed > 0 { span.sub { (words::count(status.unconfirmed)) " unconfirmed" } }
        @if status.streams > 0 { span.sub { (words::plural(status.streams as u64, "stream")) " open" } }
    }
}

pub(super) fn traffic(backend: &BackendView) -> Markup {
    let (requests, errors) = backend.rates();
    html! {
        (sparkline(&backend.history))
        span.sub {
            (words::rate(requests)) " req/s, " (words::rate(errors)) " err/s"
            @if let Some((mean, within)) = backend.latency {
                " · " (words::latency(mean)) ", 99\u{a0}% within " (words::latency(within))
            }
        }
    }
}

/// The links to what can be done with a backend.
pub(super) fn actions(frame: &Frame, backend: &BackendView) -> Markup {
    let id = backend.id();
    let link = |action: &str, name: &str| {
        html! {
            a href=(frame.backend_link(id, action)) aria-label=(format!("{name} {id}")) { (name) }
        }
    };
    html! {
        div.actions {
            @match backend.status.mode {
                Mode::Active => { (link("/drain", "Drain")) (link("/disable", "Disable")) }
                Mode::Draining => { (link("/enable", "Enable")) (link("/disable", "Disable")) }
                Mode::Disabled | Mode::Drained => (link("/enable", "Enable")),
            }
            (link("/weigh", "Weigh"))
            (link("/limit", "Limit"))
            (link("/remove", "Remove"))
        }
    }
}

pub(super) fn state_tag(backend: &BackendView) -> Markup {
    let class = match backend.status.state {
        // It is well, and gets no requests.
        State::Ready if matches!(backend.status.mode, Mode::Disabled | Mode::Drained) => "tag",
        State::Ready => "tag good",
        State::Busy | State::Suspect => "tag warn",
        State::Down => "tag bad",
    };
    html! { span class=(class) { (backend.status.state) } }
}

pub(super) fn mode_tag(mode: Mode) -> Markup {
    html! {
        @match mode {
            Mode::Active => span.plain { "active" },
            mode => span.tag.warn { (mode) },
        }
    }
}
