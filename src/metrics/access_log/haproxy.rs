//! A record in HAProxy's HTTP log format (configuration manual, section 8.2.3), with its termination and cookie
//! flags (section 8.5).

use std::io::Write;

use super::{
    record::{AccessRecord, End},
    request_line::request_line,
    time::haproxy,
};
use crate::outcome::{Outcome, Reason, TokenCause, Verdict};

/// Appends the record. `name` stands for the frontend and for the backend. The counts of connections are 0, and
/// the bytes are those of the body.
pub(super) fn write(out: &mut Vec<u8>, record: &AccessRecord, with_query: bool, name: &str) {
    match record.client() {
        // Writing to a vector cannot fail.
        Some(client) => drop(write!(out, "{}:{}", client.ip(), client.port())),
        None => out.extend(b"unix:1"),
    }
    out.extend(b" [");
    haproxy(out, record.time());
    let server = record.backend().unwrap_or("<NOSRV>");
    let _ = write!(out, "] {name} {name}/{server} ");
    times(out, record);
    let _ = write!(out, " {} {} - - ", record.status(), record.bytes());
    out.extend(flags(record));
    let retries = record.outcome().map_or(0, Outcome::attempts).saturating_sub(1);
    let redispatched = match record.verdict() {
        Some(Verdict::Moved | Verdict::Borrowed) if retries > 0 => "+",
        _ => "",
    };
    let _ = write!(out, " 0/0/0/0/{redispatched}{retries} 0/0 \"");
    request_line(out, record, with_query);
    out.extend(b"\"\n");
}

/// `TR/Tw/Tc/Tr/Ta` in milliseconds: until the head of the request was read, which is before a record begins;
/// in queues; to connect, which is part of the next; until the head of the answer; and the whole time. -1 for
/// what was not reached.
fn times(out: &mut Vec<u8>, record: &AccessRecord) {
    let waited = record.outcome().and_then(Outcome::waited).unwrap_or_default();
    let is_sent = record.outcome().is_some_and(|outcome| outcome.attempts() > 0);
    let connect = if is_sent { "0" } else { "-1" };
    let _ = write!(out, "0/{}/{connect}/", waited.as_millis());
    match record.first_byte().filter(|_| is_sent) {
        Some(first_byte) => {
            drop(write!(out, "{}", first_byte.saturating_sub(waited).as_millis()));
        }
        None => out.extend(b"-1"),
    }
    let _ = write!(out, "/{}", record.duration().as_millis());
}

/// The four flags: how the request ended, at which stage, what became of the client's cookie, and what was done
/// with it in the answer.
fn flags(record: &AccessRecord) -> [u8; 4] {
    let [cause, stage] = termination(record);
    let Some(outcome) = record.outcome() else { return [cause, stage, b'-', b'-'] };
    [cause, stage, cookie(outcome), answer_cookie(outcome)]
}

fn termination(record: &AccessRecord) -> [u8; 2] {
    let outcome = record.outcome();
    let is_sent = outcome.is_some_and(|outcome| outcome.attempts() > 0);
    match (record.end(), record.answer()) {
        (End::ClientLeft, Some(_)) => return *b"CD",
        (End::Broken, _) => return *b"SD",
        (End::ClientLeft, None) if is_sent => return *b"CH",
        (End::ClientLeft, None) => return *b"CQ",
        (End::Refused, _) => return *b"PR",
        (End::Complete, _) => {}
    }
    let status = record.status();
    match (record.verdict(), record.reason()) {
        (Some(Verdict::LastResort), _) => *b"LR",
        (Some(Verdict::Rejected), Some(Reason::ClientError)) if status == 408 => *b"cD",
        (Some(Verdict::Rejected), Some(Reason::ClientError)) => *b"CD",
        (Some(Verdict::Rejected), Some(Reason::Shortage)) => *b"RC",
        (Some(Verdict::Rejected), Some(Reason::Busy)) => *b"sQ",
        (Some(Verdict::Rejected), _) if status == 504 => *b"sH",
        (Some(Verdict::Rejected), _) if status == 502 => *b"SH",
        // It was refused by the configuration: `strict`.
        (Some(Verdict::Rejected), _) if status < 500 => *b"PR",
        (Some(Verdict::Rejected), _) => *b"SC",
        _ => *b"--",
    }
}

/// What became of the pin that the client sent: none, invalid, of a server that is down, valid, idle for too long,
/// or too old.
fn cookie(outcome: &Outcome) -> u8 {
    match (outcome.verdict(), outcome.reason()) {
        (_, Some(Reason::ExpiredIdle)) => b'E',
        (_, Some(Reason::ExpiredAbsolute)) => b'O',
        (_, Some(Reason::Malformed | Reason::Forged | Reason::Unknown | Reason::OtherPool)) => b'I',
        (
            _,
            Some(
                Reason::Down
                | Reason::Draining
                | Reason::Disabled
                | Reason::ConnectFailed
                | Reason::NotReady,
            ),
        ) => b'D',
        (Verdict::Assigned | Verdict::Local | Verdict::LastResort, _) => b'N',
        (Verdict::Rejected, _) if outcome.session().is_none() => b'N',
        _ => b'V',
    }
}

/// What was done in the answer: nothing, a token for a new session, or one in place of the client's.
fn answer_cookie(outcome: &Outcome) -> u8 {
    match outcome.token() {
        None => b'N',
        Some(TokenCause::New) => b'I',
        Some(TokenCause::Moved | TokenCause::Refreshed) => b'U',
    }
}
