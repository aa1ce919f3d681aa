//! The request line of a record.

use super::{escape, record::AccessRecord};

/// The target of a request.
pub(super) fn target(record: &AccessRecord, with_query: bool) -> &str {
    let uri = record.uri();
    match (with_query, uri.path_and_query()) {
        (true, Some(target)) => target.as_str(),
        _ => uri.path(),
    }
}

/// Appends the request line.
pub(super) fn request_line(out: &mut Vec<u8>, record: &AccessRecord, with_query: bool) {
    escape::text(out, record.method().as_str().as_bytes());
    out.push(b' ');
    escape::text(out, target(record, with_query).as_bytes());
    out.extend(format!(" {:?}", record.version()).as_bytes());
}
