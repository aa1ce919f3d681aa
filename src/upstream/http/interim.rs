//! Interim responses (RFC 9110, section 15.2), such as 103. hyper's client skips them unless each request
//! allocates a callback, so they are read from the socket as well.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// How an interim response begins.
const BEGIN: &[u8] = b"HTTP/1.1 1";

/// An interim response with a longer head is not passed on.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;

/// An interim response.
pub(super) type Interim = (StatusCode, HeaderMap);

/// Reads the heads before the final response.
#[derive(Debug, Default)]
pub(super) struct InterimReader {
    /// Whether there was an interim response, and the final one has not begun.
    reading: bool,
    head: Vec<u8>,
}

impl InterimReader {
    /// Reads `bytes`, which with `first` are the first since the request was sent. `found` is called with
    /// interim responses that are complete.
    #[inline]
    pub(super) fn read(&mut self, bytes: &[u8], first: bool, found: &mut impl FnMut(Interim)) {
        if first {
            self.head.clear();
            self.reading = bytes.starts_with(BEGIN);
        }
        if self.reading {
            self.take(bytes, found);
        }
    }

    #[cold]
    fn take(&mut self, bytes: &[u8], found: &mut impl FnMut(Interim)) {
        self.head.extend_from_slice(bytes);
        loop {
            let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
            let mut response = httparse::Response::new(&mut fields);
            match response.parse(&self.head) {
                Ok(httparse::Status::Complete(length)) => match interim(&response) {
                    Some(interim) => {
                        found(interim);
                        self.head.drain(..length);
                    }
                    None => break,
                },
                Ok(httparse::Status::Partial) if self.head.len() <= MAX_HEAD => return,
                _ => break,
            }
        }
        self.reading = false;
        self.head = Vec::new();
    }
}

/// The response, if it is an interim one. A 101 is final.
fn interim(response: &httparse::Response<'_, '_>) -> Option<Interim> {
    let status = StatusCode::from_u16(response.code?).ok()?;
    if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
        return None;
    }
    let mut headers = HeaderMap::new();
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
    }
    Some((status, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_across_reads() {
        const BYTES: &[u8] =
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
                               HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n";
        for split in BEGIN.len()..BYTES.len() - 28 {
            let (mut reader, mut found) = (InterimReader::default(), Vec::new());
            let (head, rest) = BYTES.split_at(split);
            reader.read(head, true, &mut |interim| found.push(interim));
            reader.read(rest, false, &mut |interim| found.push(interim));
            let statuses: Vec<_> = found.iter().map(|(status, _)| status.as_u16()).collect();
            assert_eq!(statuses, [103, 102], "split at {split}");
            assert_eq!(found[0].1["link"], "a");
        }
    }

    #[test]
    fn other_responses_are_not_kept() {
        let mut reader = InterimReader::default();
        for bytes in
            [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.1 101 Switching Protocols\r\n\r\n", b"x"]
        {
            reader.read(bytes, true, &mut |interim| panic!("{interim:?}"));
            reader.read(b"HTTP/1.1 103 Early Hints\r\n\r\n", false, &mut |it| panic!("{it:?}"));
            assert!(!reader.reading);
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_not_kept() {
        let (mut reader, mut found) = (InterimReader::default(), Vec::new());
        reader.read(b"HTTP/1.1 103 Early Hints\r\nlink: ", true, &mut |it| found.push(it));
        for _ in 0..3 {
            reader.read(&[b'a'; MAX_HEAD / 2], false, &mut |it| found.push(it));
        }
        assert!(reader.head.is_empty());
        reader.read(b"\r\n\r\n", false, &mut |it| found.push(it));
        assert_eq!(found.len(), 0);
    }
}
