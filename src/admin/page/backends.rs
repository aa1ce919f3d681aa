//! The backends of a pool, as a table that can be searched.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    cells::{actions, mode_tag, sessions, state_tag, traffic},
    layout::{Frame, column_names, pages},
    words,
};
use crate::{
    admin::view::{Attention, BackendView, PoolView},
    pool::Mode,
};

/// How many backends are on one page.
const PER_PAGE: usize = 50;

/// Which backends are shown.
#[derive(Debug, Default, Clone)]
pub(in crate::admin) struct Selection {
    /// Part of the id or the URL.
    pub(in crate::admin) search: String,
    /// `attention`, or the name of a state or a mode.
    pub(in crate::admin) only: String,
    /// From 0 on.
    pub(in crate::admin) page: usize,
}

/// The states and modes by which backends are selected.
const ONLY: [(&str, &str); 8] = [
    ("", "all"),
    ("attention", "those that need you"),
    ("ready", "ready"),
    ("busy", "busy"),
    ("suspect", "suspect"),
    ("down", "down"),
    ("draining", "draining"),
    ("disabled", "disabled"),
];

impl Selection {
    fn selects(&self, backend: &BackendView) -> bool {
        let search = self.search.to_lowercase();
        let url = backend.about.url.as_deref().unwrap_or_default();
        let found =
            backend.id().to_lowercase().contains(&search) || url.to_lowercase().contains(&search);
        let is = match &*self.only {
            "" => true,
            "attention" => backend.attention() != Attention::None,
            "draining" => matches!(backend.status.mode, Mode::Draining | Mode::Drained),
            "disabled" => backend.status.mode == Mode::Disabled,
            state => backend.status.state.as_str() == state,
        };
        found && is
    }

    fn link(&self, frame: &Frame, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("q", &self.search).append_pair("only", &self.only);
        query.append_pair("page", &page.to_string());
        format!("{}?{}", frame.link("/"), query.finish())
    }
}

pub(super) fn backends(
    frame: &Frame,
    pool: &PoolView,
    selection: &Selection,
    now: SystemTime,
) -> Markup {
    let mut found: Vec<_> =
        pool.backends.iter().filter(|backend| selection.selects(backend)).collect();
    found.sort_by_key(|backend| backend.attention());
    let count = found.len().div_ceil(PER_PAGE).max(1);
    let page = selection.page.min(count - 1);
    let shown = found.iter().skip(page * PER_PAGE).take(PER_PAGE);
    html! {
        h2 #backends { "Backends" }
        form.line method="get" action=(frame.link("/")) role="search" {
            div {
                label for="search" { "Id or URL contains" }
                input #search type="search" name="q" value=(selection.search);
            }
            div {
                label for="only" { "Show" }
                select #only name="only" {
                    @for (value, name) in ONLY {
                        option value=(value) selected[selection.only == value] { (name) }
                    }
                }
            }
            button.quiet type="submit" { "Show" }
        }
        @if found.is_empty() {
            p.card { "No backend is like this." }
        } @else {
            table.stack role="table" aria-labelledby="backends" {
                (column_names(&COLUMNS))
                tbody role="rowgroup" { @for backend in shown { (row(frame, backend, now)) } }
            }
            (pages("Pages of backends", (page, count), &words::plural(found.len() as u64, "backend"), |page| {
                selection.link(frame, page)
            }))
        }
    }
}

const COLUMNS: [&str; 8] =
    ["Backend", "State", "Mode", "Sessions", "In flight", "New sessions", "Traffic", "Actions"];

fn row(frame: &Frame, backend: &BackendView, now: SystemTime) -> Markup {
    let (id, status) = (backend.id(), &backend.status);
    html! {
        tr role="row" {
            th scope="row" role="rowheader" {
                a #{ "backend-" (id) } href=(frame.backend_link(id, "")) { (id) }
                @if let Some(url) = &backend.about.url { span.sub { (url) } }
                @if backend.about.insecure { span.sub { "its certificate is not verified" } }
                @if status.backup { span.sub { "backup" } }
                @if let Some(zone) = &status.zone { span.sub { "zone " (zone) } }
            }
            td role="cell" data-label="State" {
                div {
                    (state_tag(backend))
                    span.sub { (words::since(status.state_since, now)) }
                    span.sub { (backend.why()) }
                }
            }
            td role="cell" data-label="Mode" {
                div {
                    (mode_tag(status.mode))
                    @if status.mode != Mode::Active { span.sub { (words::since(status.mode_since, now)) } }
                }
            }
            td.n role="cell" data-label="Sessions" { div { (sessions(backend)) } }
            td.n role="cell" data-label="In flight" {
                div {
                    (words::count(status.in_flight as u64))
                    @if status.limit > 0 { " of " (words::count(status.limit as u64)) }
                    @if status.waiting > 0 { span.sub { (words::count(status.waiting as u64)) " waiting" } }
                }
            }
            td.n role="cell" data-label="New sessions" {
                div {
                    @match backend.share { Some(share) => (words::percent(share)), None => "–" }
                    span.sub { "ought to have " (words::percent(backend.ought)) }
                }
            }
            td.n role="cell" data-label="Traffic" { div { (traffic(backend)) } }
            td role="cell" data-label="Actions" {
                div { @if !frame.read_only { (actions(frame, backend)) } @else { span.soft { "read-only" } } }
            }
        }
    }
}
