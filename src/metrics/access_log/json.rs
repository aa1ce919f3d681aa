//! A record as one line of JSON.

use std::io::Write;

use super::{
    escape,
    record::AccessRecord,
    request_line::target,
    time::{millis, rfc3339},
};
use crate::outcome::{Outcome, Reason, TokenCause};

/// Appends the record as an object. What is not known is left out.
pub(super) fn write(out: &mut Vec<u8>, record: &AccessRecord, with_query: bool) {
    out.extend(b"{\"time\":\"");
    rfc3339(out, record.time());
    out.push(b'"');
    if let Some(client) = record.client() {
        // Writing to a vector cannot fail.
        let _ = write!(out, ",\"client\":\"{}\"", client.ip());
    }
    string(out, "method", Some(record.method().as_str().as_bytes()));
    string(out, "host", record.host());
    string(out, "path", Some(target(record, with_query).as_bytes()));
    let _ = write!(out, ",\"protocol\":\"{:?}\"", record.version());
    let _ = write!(out, ",\"status\":{},\"bytes\":{}", record.status(), record.bytes());
    string(out, "end", Some(record.end().as_str().as_bytes()));
    let outcome = record.outcome();
    duration(out, "wait_ms", outcome.and_then(Outcome::waited));
    duration(out, "first_byte_ms", record.first_byte());
    duration(out, "duration_ms", Some(record.duration()));
    string(out, "backend", record.backend().map(str::as_bytes));
    if let Some(outcome) = outcome {
        string(out, "outcome", Some(outcome.verdict().as_str().as_bytes()));
        string(out, "reason", outcome.reason().map(Reason::as_str).map(str::as_bytes));
        if let Some(session) = outcome.session() {
            let _ = write!(out, ",\"session\":\"{session}\"");
        }
        if let Some(epoch) = outcome.epoch() {
            let _ = write!(out, ",\"epoch\":{epoch}");
        }
        let _ = write!(out, ",\"attempts\":{}", outcome.attempts());
        string(out, "token", outcome.token().map(TokenCause::as_str).map(str::as_bytes));
    }
    string(out, "request_id", record.request_id().map(|id| id.as_bytes()));
    out.extend(b"}\n");
}

fn string(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    if let Some(value) = value {
        let _ = write!(out, ",\"{name}\":\"");
        escape::json(out, value);
        out.push(b'"');
    }
}

fn duration(out: &mut Vec<u8>, name: &str, value: Option<std::time::Duration>) {
    if let Some(value) = value {
        let _ = write!(out, ",\"{name}\":");
        millis(out, value);
    }
}
