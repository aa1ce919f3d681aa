//! The last moves of sessions.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    layout::{Frame, column_names, pages, time},
    words,
};
use crate::{admin::filter::MoveFilter, outcome::Reason, pool::MoveRecord};

/// How many moves are on one page.
const PER_PAGE: usize = 100;

/// A table of the first `most` moves.
pub(in crate::admin) fn moves_table(moves: &[MoveRecord], most: usize, now: SystemTime) -> Markup {
    html! {
        @if moves.is_empty() {
            p.card { "No session has moved." }
        } @else {
            table.stack role="table" aria-label="Moves" {
                (column_names(&["Time (UTC)", "Session", "From", "To", "Reason"]))
                tbody role="rowgroup" {
                    @for record in moves.iter().take(most) {
                        tr role="row" {
                            td.n role="cell" data-label="Time (UTC)" {
                                div { (time(record.at)) span.sub { (words::duration(words::ago(record.at, now))) " ago" } }
                            }
                            td role="cell" data-label="Session" {
                                @match record.session {
                                    Some(session) => code { (session) },
                                    None => span.soft { "without an id" },
                                }
                            }
                            td role="cell" data-label="From" {
                                @match &record.from {
                                    Some(from) => span { (from) },
                                    None => span.soft { "a backend that has left" },
                                }
                            }
                            td role="cell" data-label="To" { (record.to) }
                            td role="cell" data-label="Reason" {
                                @match record.reason { Some(reason) => (reason), None => "–" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The page of all moves, with its filter.
pub(in crate::admin) fn moves_page(
    frame: &Frame,
    filter: &MoveFilter,
    page: usize,
    moves: &[MoveRecord],
    now: SystemTime,
) -> Markup {
    let count = moves.len().div_ceil(PER_PAGE).max(1);
    let page = page.min(count - 1);
    let shown = moves.get(page * PER_PAGE..).unwrap_or_default();
    let field = |name: &str, label: &str, value: &str| {
        html! {
            div {
                label for=(name) { (label) }
                input id=(name) name=(name) value=(value);
            }
        }
    };
    html! {
        h1 { "Moves of sessions" }
        p.soft {
            "The last 1,000 moves, newest first. A session is shown by a keyed hash, which stays the same while this process runs."
        }
        form.line method="get" action=(frame.link("/view/moves")) role="search" {
            (field("session", "Session", &filter.session))
            (field("from", "From", &filter.from))
            (field("to", "To", &filter.to))
            div {
                label for="reason" { "Reason" }
                select #reason name="reason" {
                    option value="" selected[filter.reason.is_empty()] { "any" }
                    @for reason in Reason::ALL {
                        option value=(reason) selected[filter.reason == reason.as_str()] { (reason) }
                    }
                }
            }
            button type="submit" { "Filter" }
        }
        (moves_table(shown, PER_PAGE, now))
        (pages("Pages of moves", (page, count), &words::plural(moves.len() as u64, "move"), |page| {
            filter.link(frame, page)
        }))
    }
}

impl MoveFilter {
    fn link(&self, frame: &Frame, page: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("session", &self.session).append_pair("from", &self.from);
        query.append_pair("to", &self.to).append_pair("reason", &self.reason);
        query.append_pair("page", &page.to_string());
        format!("{}?{}", frame.link("/view/moves"), query.finish())
    }
}
