//! Escaping: a byte of a request never ends a field or a line of a log.

use std::io::Write;

/// Appends `bytes` as a part of a JSON string (RFC 8259, section 7). Bytes that are not UTF-8 become U+FFFD.
pub(super) fn json(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend([b'\\', c as u8]),
                '\u{20}'..='\u{7e}' => out.push(c as u8),
                c if c.is_control() => {
                    // Writing to a vector cannot fail.
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend("\u{fffd}".as_bytes());
        }
    }
}

/// Appends `bytes` as a part of a text line: quotes, backslashes, and what is not printable ASCII, as `\xHH`.
pub(super) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' | 0..b' ' | 0x7f.. => {
                let _ = write!(out, "\\x{byte:02X}");
            }
            byte => out.push(*byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(escape: fn(&mut Vec<u8>, &[u8]), bytes: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, bytes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn no_byte_ends_a_string_or_a_line() {
        let bytes = b"a\"b\\c\nd\x1b\x7f\xff\xc3\xa4";
        assert_eq!(escaped(text, bytes), r"a\x22b\x5Cc\x0Ad\x1B\x7F\xFF\xC3\xA4");
        assert_eq!(escaped(json, bytes), "a\\\"b\\\\c\\u000ad\\u001b\\u007f\u{fffd}\u{e4}");
        for byte in 0..=255u8 {
            let string = format!("\"{}\"", escaped(json, &[byte]));
            let parsed: String = serde_json::from_str(&string).unwrap();
            assert_eq!(parsed, String::from_utf8_lossy(&[byte]), "{byte}");
        }
    }
}
