//! HTTP/1.1 on bytes, read strictly: what a backend may be sent.

/// A request as it stands in the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRequest {
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// The names, in lower case, and the values of its fields.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Its body, without the framing.
    pub body: Vec<u8>,
}

impl RawRequest {
    /// The values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(move |(it, _)| it == name).map(|(_, value)| &value[..])
    }
}

/// The first request in `bytes`, and how long it is. `Ok(None)` while it is not complete.
///
/// # Errors
///
/// What a strict server would refuse.
pub fn request(bytes: &[u8]) -> Result<Option<(RawRequest, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    let mut lines = split_lines(head).into_iter();
    let line = lines.next().unwrap_or_default();
    let text = std::str::from_utf8(line).map_err(|_| "the request line is no text".to_owned())?;
    let words: Vec<_> = text.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Err(format!("the request line {text:?}"));
    };
    if !is_token(method.as_bytes())
        || target.is_empty()
        || !target.bytes().all(|b| b > b' ' && b != 0x7f)
    {
        return Err(format!("the request line {text:?}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').ok_or("a line without a colon")?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) || value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err(format!("the field {:?}", String::from_utf8_lossy(line)));
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
    let mut request = RawRequest {
        method: method.to_owned(),
        target: target.to_owned(),
        fields,
        body: Vec::new(),
    };
    let Some((body, length)) = body(&request, &bytes[end + 4..])? else { return Ok(None) };
    request.body = body;
    Ok(Some((request, end + 4 + length)))
}

/// The lines of a head, which end with CR LF and contain neither of them.
fn split_lines(head: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), head);
    while let Some(at) = rest.windows(2).position(|window| window == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    lines
}

fn is_token(bytes: &[u8]) -> bool {
    let is_char = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !bytes.is_empty() && bytes.iter().all(is_char)
}

/// The body and the bytes that it takes.
fn body(request: &RawRequest, bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    if request.values("host").count() != 1 {
        return Err("not one host".to_owned());
    }
    let lengths: Vec<_> = request.values("content-length").collect();
    let codings: Vec<_> = request.values("transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some((Vec::new(), 0))),
        ([length], []) => {
            let text = std::str::from_utf8(length).map_err(|_| "a length that is no text")?;
            if !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("the length {text:?}"));
            }
            let length: usize = text.parse().map_err(|_| format!("the length {text:?}"))?;
            Ok(bytes.get(..length).map(|body| (body.to_vec(), length)))
        }
        ([], [b"chunked"]) => chunked(bytes),
        _ => Err(format!("the framing {lengths:?} {codings:?}")),
    }
}

fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = &bytes[at..];
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| "a chunk's size is no text")?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("the size of a chunk {text:?}"));
        }
        let size = usize::from_str_radix(text, 16).map_err(|_| format!("the size {text:?}"))?;
        at += end + 2;
        if size == 0 {
            // Trailers, up to an empty line.
            let rest = &bytes[at..];
            if rest.starts_with(b"\r\n") {
                return Ok(Some((body, at + 2)));
            }
            let end = rest.windows(4).position(|window| window == b"\r\n\r\n");
            return Ok(end.map(|end| (body, at + end + 4)));
        }
        let Some(chunk) = bytes.get(at..at.saturating_add(size)) else { return Ok(None) };
        body.extend_from_slice(chunk);
        at += size;
        match bytes.get(at..at + 2) {
            Some(b"\r\n") => at += 2,
            Some(_) => return Err("a chunk is longer than its size".to_owned()),
            None => return Ok(None),
        }
    }
}
