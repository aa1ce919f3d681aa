//! The overview: whether somebody is needed, the backends, the last moves, and the totals.

use std::time::SystemTime;

use maud::{Markup, html};

use super::{
    backends::{Selection, backends},
    drains::drains,
    layout::Frame,
    moves::moves_table,
    totals::{balance, outcomes, tiles, tokens},
    words,
};
use crate::admin::view::PoolView;

/// How many moves are on the overview.
const MOVES: usize = 8;

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
    let (troubles, apart) = (pool.troubles(now), pool.set_apart().join(", "));
    let class = match (troubles.is_empty(), apart.is_empty()) {
        (true, true) => "card health",
        (true, false) => "card health apart",
        (false, _) => "card health attention",
    };
    html! {
        section class=(class) aria-label="Health of the pool" {
            @if troubles.is_empty() {
                p.verdict { "All is well" @if !apart.is_empty() { "; " (apart) } "." }
                p.soft {
                    (words::plural(pool.backends.len() as u64, "backend")) "; new sessions go to "
                    (words::count(pool.sum(|backend| u64::from(backend.takes_new)))) " of them."
                }
            } @else {
                p.verdict { "Something needs you." }
                ul { @for trouble in troubles { li { (trouble) } } }
                @if !apart.is_empty() { p.soft { "By the operator's wish: " (apart) "." } }
            }
        }
    }
}
