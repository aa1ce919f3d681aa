//! Changing the cookies of one name in a request, slowly.

use bytes::Bytes;

/// What becomes of a cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// It stays.
    Keep,
    /// It goes, with one of the semicolons around it.
    Remove,
    /// It gets this value, without quotes.
    Replace(Vec<u8>),
}

fn trim(bytes: &[u8]) -> &[u8] {
    bytes.trim_ascii()
}

/// The parts of a pair: up to its value, the value with its quotes, and what follows. `None` when it is a cookie of
/// another name.
fn split<'a>(pair: &'a [u8], name: &str) -> Option<[&'a [u8]; 3]> {
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    if trim(&pair[..equals]) != name.as_bytes() {
        return None;
    }
    let rest = &pair[equals + 1..];
    let start = equals + 1 + (rest.len() - rest.trim_ascii_start().len());
    let value = trim(rest);
    Some([&pair[..start], value, &pair[start + value.len()..]])
}

/// The fields with the cookies of this name edited, as `choose` says for each value. Of a field that loses its first
/// cookie, the white space that it then begins with goes, and a field that loses all that is in it goes.
pub fn edited(fields: &[Bytes], name: &str, mut choose: impl FnMut(&[u8]) -> Edit) -> Vec<Bytes> {
    let mut left = Vec::new();
    for field in fields {
        let (mut pairs, mut changed, mut cut_front) = (Vec::new(), false, false);
        for (position, pair) in field.split(|byte| *byte == b';').enumerate() {
            let Some([before, value, behind]) = split(pair, name) else {
                pairs.push(pair.to_vec());
                continue;
            };
            let quoted = value.len() >= 2 && value.starts_with(b"\"") && value.ends_with(b"\"");
            let bare = if quoted { &value[1..value.len() - 1] } else { value };
            match choose(bare) {
                Edit::Keep => pairs.push(pair.to_vec()),
                Edit::Remove => {
                    changed = true;
                    cut_front |= position == 0;
                }
                Edit::Replace(new) => {
                    changed = true;
                    pairs.push([before, &new, behind].concat());
                }
            }
        }
        let mut rest = pairs.join(&b';');
        if changed {
            if cut_front {
                rest.drain(..rest.len() - rest.trim_ascii_start().len());
            }
            if rest.iter().all(|byte| b" \t;".contains(byte)) {
                continue;
            }
        }
        left.push(Bytes::from(rest));
    }
    left
}
