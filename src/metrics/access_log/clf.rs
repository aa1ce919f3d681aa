//! A record in the Common and the Combined Log Format of NCSA's and Apache's httpd.

use std::io::Write;

use http::HeaderValue;

use super::{escape, record::AccessRecord, request_line::request_line, time::clf};

/// Appends `client - - [time] "request" status bytes`, and of `combined` the referer and the user agent.
pub(super) fn write(out: &mut Vec<u8>, record: &AccessRecord, with_query: bool, combined: bool) {
    match record.client() {
        // Writing to a vector cannot fail.
        Some(client) => drop(write!(out, "{}", client.ip())),
        None => out.push(b'-'),
    }
    out.extend(b" - - [");
    clf(out, record.time());
    out.extend(b"] \"");
    request_line(out, record, with_query);
    let _ = write!(out, "\" {} ", record.status());
    match record.bytes() {
        0 => out.push(b'-'),
        bytes => drop(write!(out, "{bytes}")),
    }
    if combined {
        quoted(out, record.referer());
        quoted(out, record.user_agent());
    }
    out.push(b'\n');
}

fn quoted(out: &mut Vec<u8>, value: Option<&HeaderValue>) {
    out.extend(b" \"");
    match value {
        Some(value) => escape::text(out, value.as_bytes()),
        None => out.push(b'-'),
    }
    out.push(b'"');
}
