//! `GET /moves`: the last moves of sessions, as JSON.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::Response,
};
use serde_json::{Value, json};

use super::{filter::MoveFilter, json, page::words::rfc3339, state::Admin};
use crate::pool::MoveRecord;

/// The moves, newest first, by the parameters `session`, `from`, `to` and `reason` of the query.
pub(super) async fn list_moves(State(admin): State<Admin>, RawQuery(query): RawQuery) -> Response {
    let filter = MoveFilter::parse(query.as_deref().unwrap_or_default());
    let moves: Vec<_> = filter.select(admin.pool.moves()).iter().map(to_json).collect();
    json::answer(StatusCode::OK, &moves)
}

fn to_json(record: &MoveRecord) -> Value {
    json!({
        "at": rfc3339(record.at),
        "session": record.session.map(|session| session.to_string()),
        "from": record.from.as_ref().map(|from| from.as_str()),
        "to": record.to.as_str(),
        "reason": record.reason.map(|reason| reason.as_str()),
    })
}
