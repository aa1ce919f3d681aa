//! The numbers of the whole pool.

use maud::{Markup, html};

use super::words;
use crate::{
    admin::view::{BackendView, PoolView},
    outcome::{Reason, Verdict},
};

pub(super) fn tiles(pool: &PoolView) -> Markup {
    let (requests, errors) = pool
        .backends
        .iter()
        .map(BackendView::rates)
        .fold((0.0, 0.0), |(requests, errors), (more, failed)| (requests + more, errors + failed));
    let in_all =
        |value: fn(&BackendView) -> usize| words::count(pool.sum(|backend| value(backend) as u64));
    html! {
        dl.tiles {
            div { dt { "Requests" } dd { (words::rate(requests)) small { " / s" } } }
            div { dt { "Errors" } dd { (words::rate(errors)) small { " / s" } } }
            div { dt { "All requests" } dd #requests { (words::count(pool.stats.requests())) } }
            div { dt { "Sessions seen" } dd { (words::count(pool.sum(BackendView::sessions))) } }
            div {
                dt { "In flight" }
                dd {
                    (in_all(|backend| backend.status.in_flight))
                    small.under { (in_all(|backend| backend.status.waiting)) " waiting" }
                }
            }
            div {
                dt { "First byte" }
                dd {
                    @match pool.latency {
                        Some((mean, within)) => {
                            (words::latency(mean)) small.under { "99\u{a0}% within " (words::latency(within)) }
                        }
                        None => "–",
                    }
                }
            }
            div { dt { "All moves" } dd #all-moves { (words::count(pool.stats.moves())) } }
            div { dt { "Violations" } dd { (words::count(pool.stats.violations())) } }
        }
    }
}

/// How requests were served, and why not by their backend.
pub(super) fn outcomes(pool: &PoolView) -> Markup {
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

pub(super) fn tokens(pool: &PoolView) -> Markup {
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

pub(super) fn balance(pool: &PoolView) -> Markup {
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
