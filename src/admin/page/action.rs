//! The pages that ask before they change a backend, and say what will happen to its sessions.

use maud::{Markup, html};

use super::{layout::Frame, words};
use crate::admin::view::{BackendView, PoolView};

/// What can be done with a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::admin) enum Action {
    Drain,
    Disable,
    Enable,
    Weigh,
    Limit,
    Remove,
}

impl Action {
    /// The action with this name in a path.
    pub(in crate::admin) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "drain" => Self::Drain,
            "disable" => Self::Disable,
            "enable" => Self::Enable,
            "weigh" => Self::Weigh,
            "limit" => Self::Limit,
            "remove" => Self::Remove,
            _ => return None,
        })
    }

    pub(in crate::admin) fn path(self) -> &'static str {
        match self {
            Self::Drain => "/drain",
            Self::Disable => "/disable",
            Self::Enable => "/enable",
            Self::Weigh => "/weigh",
            Self::Limit => "/limit",
            Self::Remove => "/remove",
        }
    }

    /// What its button says.
    pub(in crate::admin) fn verb(self) -> &'static str {
        match self {
            Self::Drain => "Drain",
            Self::Disable => "Disable",
            Self::Enable => "Enable",
            Self::Weigh => "Weigh",
            Self::Limit => "Limit",
            Self::Remove => "Remove",
        }
    }
}

/// Asks whether to do this, and says what will happen to how many sessions.
pub(in crate::admin) fn confirmation(
    frame: &Frame,
    pool: &PoolView,
    backend: &BackendView,
    action: Action,
    problem: Option<&str>,
) -> Markup {
    let id = backend.id();
    html! {
        h1 { (action.verb()) " " (id) "?" }
        @if let Some(problem) = problem { p.note.bad role="alert" { (problem) } }
        @if takes_away(action) && others(pool, backend).next().is_none() {
            p.note.bad { "No other backend takes new sessions." }
        }
        section.card aria-label="What will happen" {
            @for sentence in consequences(pool, backend, action) { p { (sentence) } }
            form method="post" action=(frame.backend_link(id, action.path())) {
                (frame.token_field())
                (fields(backend, action))
                p.actions {
                    button type="submit" { (action.verb()) " " (id) }
                    a.button.quiet href=(frame.backend_link(id, "")) { "Cancel" }
                }
            }
        }
    }
}

/// What will happen, in sentences.
fn consequences(pool: &PoolView, backend: &BackendView, action: Action) -> Vec<String> {
    let id = backend.id();
    let sessions = sessions(backend);
    let requests = words::plural(backend.status.in_flight as u64, "request");
    let others = elsewhere(pool, backend);
    match action {
        Action::Drain => vec![
            format!("{id} has {sessions} and {requests} in flight."),
            format!("It keeps its sessions until they end, and takes no new ones. New sessions {others}."),
            "With a deadline, the sessions that are left then move with their next request, and open \
             streams are cut off. A session that hands its state over may move earlier."
                .to_owned(),
        ],
        Action::Disable => vec![
            format!("{id} has {sessions} and {requests} in flight."),
            format!(
                "Requests in flight finish. From now on it gets no request: its sessions {others} with their next request."
            ),
            "What they have at this backend alone, such as a cart, stays there. Draining keeps it.".to_owned(),
        ],
        Action::Enable => vec![format!(
            "{id} takes new sessions again, and a drain of it ends. Its {sessions} stay; sessions that have moved away do not return."
        )],
        Action::Weigh => vec![format!(
            "No session moves. The weight of {id} decides how many of the new sessions it gets, compared with the others: now {} of {}, which is {}. With 0 it gets none.",
            if backend.takes_new { backend.status.weight } else { 0 },
            pool.sum(|backend| if backend.takes_new { u64::from(backend.status.weight) } else { 0 }),
            words::percent(backend.ought),
        )],
        Action::Limit => vec![
            format!(
                "{id} has {requests} in flight, and {} waiting. More than the limit wait, as configured.",
                words::count(backend.status.waiting as u64)
            ),
            format!("Its {sessions} stay. When the limit is lower than what is in flight, nothing is cut off."),
        ],
        Action::Remove => vec![
            format!("{id} has {sessions} and {requests} in flight."),
            format!(
                "Requests in flight finish. Its sessions {others} with their next request, and {id} is forgotten."
            ),
        ],
    }
}

/// How many sessions it has, as far as that is known.
fn sessions(backend: &BackendView) -> String {
    let known = words::plural(backend.sessions(), "session");
    let unconfirmed = match backend.status.unconfirmed {
        0 => String::new(),
        some => format!(" (and {} whose token has not come back yet)", words::count(some)),
    };
    match backend.status.sessions {
        Some(_) => format!("{known}{unconfirmed}"),
        None => format!("at least {known}{unconfirmed}"),
    }
}

/// Whether new sessions go elsewhere afterwards.
fn takes_away(action: Action) -> bool {
    matches!(action, Action::Drain | Action::Disable | Action::Remove)
}

/// The other backends that take new sessions.
fn others<'a>(pool: &'a PoolView, backend: &'a BackendView) -> impl Iterator<Item = &'a str> {
    let others = pool.backends.iter().filter(|other| other.takes_new);
    others.map(BackendView::id).filter(|id| *id != backend.id())
}

/// Where sessions go that do not go to this backend.
fn elsewhere(pool: &PoolView, backend: &BackendView) -> String {
    let others: Vec<_> = others(pool, backend).collect();
    match &others[..] {
        [] => "get 503, as no other backend takes sessions".to_owned(),
        [one] => format!("go to {one}"),
        some if some.len() <= 5 => format!("go to {}", some.join(", ")),
        many => format!("go to the other {} backends", many.len()),
    }
}

fn fields(backend: &BackendView, action: Action) -> Markup {
    html! {
        @match action {
            Action::Drain => {
                div.line {
                    label for="deadline" { "Deadline, such as 10m or 1h; empty for none" }
                    input #deadline name="deadline" value="10m" autocomplete="off";
                }
                div.line {
                    label for="then" { "Sessions that are left then" }
                    select #then name="then" {
                        option value="repin" { "move to another backend" }
                        option value="borrow" { "are served elsewhere, and stay pinned" }
                        option value="reject" { "are refused" }
                    }
                }
            }
            Action::Weigh => {
                div.line {
                    label for="weight" { "Weight" }
                    input #weight name="weight" type="number" min="0" max=(u32::MAX) required value=(backend.status.weight);
                }
            }
            Action::Limit => {
                div.line {
                    label for="max_connections" { "Requests in flight at most; 0 for no limit" }
                    input #max_connections name="max_connections" type="number" min="0" required value=(backend.status.limit);
                }
            }
            Action::Disable | Action::Enable | Action::Remove => {}
        }
    }
}
