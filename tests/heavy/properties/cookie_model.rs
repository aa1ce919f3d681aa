//! The `Cookie` header as RFC 6265 describes it, written to be obviously right. The fuzzers use it, too.

use bytes::Bytes;

fn trim(bytes: &[u8]) -> &[u8] {
    let white = |b: &u8| *b == b' ' || *b == b'\t';
    let Some(start) = bytes.iter().position(|b| !white(b)) else { return &[] };
    let end = bytes.iter().rposition(|b| !white(b)).unwrap();
    &bytes[start..=end]
}

fn pairs(field: &[u8]) -> Vec<&[u8]> {
    field.split(|b| *b == b';').collect()
}

/// The value of a pair, when it is a cookie of this name.
fn value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|b| *b == b'=')?;
    if trim(&pair[..equals]) != name.as_bytes() {
        return None;
    }
    let value = trim(&pair[equals + 1..]);
    let quoted = value.len() >= 2 && value.starts_with(b"\"") && value.ends_with(b"\"");
    Some(if quoted { &value[1..value.len() - 1] } else { value })
}

/// The values of all cookies of this name, over all fields.
pub fn values<'a>(fields: &'a [Bytes], name: &str) -> Vec<&'a [u8]> {
    fields.iter().flat_map(|field| pairs(field)).filter_map(|pair| value(pair, name)).collect()
}

/// The fields without the cookies of this name. Of a field that had one, the white space that
/// it begins with is ignored, and it is removed when only separators are left.
pub fn without(fields: &[Bytes], name: &str) -> Vec<Bytes> {
    let mut left = Vec::new();
    for field in fields {
        let pairs = pairs(field);
        let others: Vec<_> =
            pairs.iter().copied().filter(|pair| value(pair, name).is_none()).collect();
        let mut rest = others.join(&b';');
        if others.len() < pairs.len() {
            if value(pairs[0], name).is_some() {
                let start = rest.iter().position(|b| !b" \t".contains(b)).unwrap_or(rest.len());
                rest.drain(..start);
            }
            if rest.iter().all(|b| b" \t;".contains(b)) {
                continue;
            }
        }
        left.push(Bytes::from(rest));
    }
    left
}
