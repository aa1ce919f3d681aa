//! The request line of a record.

use std::borrow::Cow;

use super::{escape, record::AccessRecord};

/// The target of a request. It begins with a slash, as that of `http://shop?a=b` does not.
pub(super) fn target(record: &AccessRecord, with_query: bool) -> Cow<'_, str> {
    let uri = record.uri();
    match (with_query, uri.path_and_query()) {
        (true, Some(target)) if target.as_str().starts_with('?') => target.to_string().into(),
        (true, Some(target)) => target.as_str().into(),
        _ => uri.path().into(),
    }
}

/// Appends the request line.
pub(super) fn request_line(out: &mut Vec<u8>, record: &AccessRecord, with_query: bool) {
    escape::text(out, record.method().as_str().as_bytes());
    out.push(b' ');
    escape::text(out, target(record, with_query).as_bytes());
    out.extend(format!(" {:?}", record.version()).as_bytes());
}
