//! The overview: the health of the pool, and its backends.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    layout::{Frame, time},
    moves::moves_table,
    sparkline::sparkline,
    words,
};
use crate::{
    admin::view::{Attention, BackendView, PoolView, since},
    outcome::{Reason, Verdict},
    pool::{Mode, State},
};

/// How many backends are on one page.
const PER_PAGE: usize = 50;
/// How many moves are on the overview.
const MOVES: usize = 8;

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

/// What changes on the overview.
pub(in crate::admin) fn overview(
    frame: &Frame,
    pool: &PoolView,
    selection: &Selection,
    now: SystemTime,
) -> Markup {
    html! {
        h1 { "Pool " (pool.name) }
        (health(pool, now))
        (tiles(pool))
        (drains(frame, pool))
        (backends(frame, pool, selection, now))
        h2 #moves { "Last moves of sessions" }
        (moves_table(&pool.moves, MOVES, now))
        @if pool.moves.len() > MOVES {
            p { a href=(frame.link("/view/moves")) { "All of the last " (pool.moves.len()) " moves" } }
        }
        div.split {
            div { (outcomes(pool)) }
            div { (tokens(pool)) (balance(pool)) }
        }
    }
}

fn health(pool: &PoolView, now: SystemTime) -> Markup {
    let troubles = pool.troubles(now);
    html! {
        section.card.health.attention[!troubles.is_empty()] role="status" aria-label="Health of the pool" {
            @if troubles.is_empty() {
                p.verdict { "All is well." }
                p.soft {
                    (words::plural(pool.backends.len() as u64, "backend")) ", "
                    (pool.sum(|backend| u64::from(backend.takes_new))) " of them take new sessions."
                }
            } @else {
                p.verdict { "Something needs you." }
                ul { @for trouble in troubles { li { (trouble) } } }
            }
        }
    }
}

fn tiles(pool: &PoolView) -> Markup {
    let (requests, errors) = pool
        .backends
        .iter()
        .map(BackendView::rates)
        .fold((0.0, 0.0), |(requests, errors), (more, failed)| (requests + more, errors + failed));
    html! {
        dl.tiles {
            div { dt { "Requests" } dd { (words::rate(requests)) small { " / s" } } }
            div { dt { "Errors" } dd { (words::rate(errors)) small { " / s" } } }
            div { dt { "Requests so far" } dd #requests { (words::count(pool.stats.requests())) } }
            div { dt { "Sessions seen" } dd { (words::count(pool.sum(BackendView::sessions))) } }
            div { dt { "In flight" } dd { (words::count(pool.sum(|backend| backend.status.in_flight as u64))) } }
            div { dt { "Waiting" } dd { (words::count(pool.sum(|backend| backend.status.waiting as u64))) } }
            div {
                dt { "First byte, mean" }
                dd {
                    @match pool.latency {
                        Some((mean, within)) => {
                            (words::latency(mean)) small { " · 99 % within " (words::latency(within)) }
                        }
                        None => "–",
                    }
                }
            }
            div { dt { "Moves so far" } dd { (words::count(pool.stats.moves())) } }
            div { dt { "Violations" } dd { (words::count(pool.stats.violations())) } }
        }
    }
}

fn drains(frame: &Frame, pool: &PoolView) -> Markup {
    let draining: Vec<_> =
        pool.backends.iter().filter(|backend| backend.status.mode == Mode::Draining).collect();
    html! {
        @if !draining.is_empty() {
            h2 { "Drains" }
            @for backend in draining.iter().take(PER_PAGE) { (drain(frame, backend)) }
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
                        @if let Some(left) = backend.drain_left() {
                            "It ends in about " (words::duration(left))
                            @if let Some(deadline) = drain.remaining {
                                ", at the latest in " (words::duration(deadline))
                            } "."
                        } @else {
                            "When it ends is not known yet: it has no deadline, and no session has left."
                        }
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

fn left(backend: &BackendView) -> String {
    let sessions = words::plural(backend.sessions(), "session");
    match backend.status.sessions {
        Some(_) => sessions,
        None => format!("at least {sessions}"),
    }
}

fn backends(frame: &Frame, pool: &PoolView, selection: &Selection, now: SystemTime) -> Markup {
    let mut found: Vec<_> =
        pool.backends.iter().filter(|backend| selection.selects(backend)).collect();
    found.sort_by_key(|backend| backend.attention());
    let pages = found.len().div_ceil(PER_PAGE).max(1);
    let page = selection.page.min(pages - 1);
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
                thead role="rowgroup" {
                    tr role="row" {
                        @for name in COLUMNS { th scope="col" role="columnheader" { (name) } }
                    }
                }
                tbody role="rowgroup" { @for backend in shown { (row(frame, backend, now)) } }
            }
            @if pages > 1 {
                nav aria-label="Pages of backends" {
                    p {
                        "Page " (page + 1) " of " (pages) ", " (words::plural(found.len() as u64, "backend")) ". "
                        @if page > 0 { a href=(selection.link(frame, page - 1)) { "Previous" } " " }
                        @if page + 1 < pages { a href=(selection.link(frame, page + 1)) { "Next" } }
                    }
                }
            }
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
                    span.sub { (since(status.state_since, now)) ": " (backend.why()) }
                }
            }
            td role="cell" data-label="Mode" {
                div {
                    (mode_tag(status.mode))
                    @if status.mode != Mode::Active { span.sub { (since(status.mode_since, now)) } }
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

fn sessions(backend: &BackendView) -> Markup {
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

fn traffic(backend: &BackendView) -> Markup {
    let (requests, errors) = backend.rates();
    html! {
        (sparkline(&backend.history))
        span.sub {
            (words::rate(requests)) " req/s, " (words::rate(errors)) " err/s"
            @if let Some((mean, within)) = backend.latency {
                " · " (words::latency(mean)) ", 99 % within " (words::latency(within))
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

/// How requests were served, and why not by their backend.
fn outcomes(pool: &PoolView) -> Markup {
    let reasons = Reason::ALL.iter().filter(|reason| pool.stats.reason(**reason) > 0);
    html! {
        h2 #outcomes { "How requests were served" }
        table aria-labelledby="outcomes" {
            thead { tr { th scope="col" { "Outcome" } th scope="col" { "Requests" } } }
            tbody {
                @for verdict in Verdict::ALL {
                    tr { th scope="row" { (verdict) } td.n { (words::count(pool.stats.outcome(*verdict))) } }
                }
                @for reason in reasons {
                    tr { th scope="row" { span.soft { "because " } (reason) } td.n { (words::count(pool.stats.reason(*reason))) } }
                }
            }
        }
    }
}

fn tokens(pool: &PoolView) -> Markup {
    let causes = Reason::ALL.iter().filter(|reason| reason.is_token_error());
    html! {
        h2 #tokens { "Token trouble" }
        table aria-labelledby="tokens" {
            thead { tr { th scope="col" { "Cause" } th scope="col" { "Tokens" } } }
            tbody {
                tr { th scope="row" { "issued" } td.n { (words::count(pool.stats.tokens_issued())) } }
                @for cause in causes {
                    tr { th scope="row" { (cause) } td.n { (words::count(pool.stats.token_errors(*cause))) } }
                }
            }
        }
    }
}

fn balance(pool: &PoolView) -> Markup {
    html! {
        h2 { "Rebalancing" }
        p.card {
            @match pool.balance {
                Some(average) => {
                    "Sessions are counted: " (format!("{average:.1}")) " per weight on average. "
                    (words::plural(pool.stats.reason(Reason::Rebalanced), "session")) " moved to balance the load."
                }
                None => "Off: sessions stay where they are.",
            }
        }
    }
}

/// The page of one backend.
pub(in crate::admin) fn backend_page(
    frame: &Frame,
    backend: &BackendView,
    moves: &[crate::pool::MoveRecord],
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
                dd { (mode_tag(status.mode)) " since " (time(status.mode_since)) " UTC" }
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
