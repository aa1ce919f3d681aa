//! HTTP/2 as frames (RFC 9113): what ends a stream, what ends the connection, and what is refused.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};

use crate::{
    backends::{Backend, echo, held, silent},
    process::{FOREVER, Gateway},
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Literal fields without indexing (RFC 7541, section 6.2.2), not Huffman coded.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte is enough for the length");
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A request head: these fields after the usual ones, of which `-name` takes one away.
fn request(stream: u32, flags: u8, changes: &[(&str, &str)]) -> Vec<u8> {
    let usual = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let is_changed = |name: &str| changes.iter().any(|(it, _)| it.trim_start_matches('-') == name);
    let mut all: Vec<_> = usual.into_iter().filter(|(name, _)| !is_changed(name)).collect();
    let added = || changes.iter().filter(|(name, _)| !name.starts_with('-'));
    all.extend(added().filter(|(name, _)| name.starts_with(':')));
    all.extend(added().filter(|(name, _)| !name.starts_with(':')));
    frame(HEADERS, flags | END_HEADERS, stream, &fields(&all))
}

struct Connection(TcpStream);

impl Connection {
    async fn new(gateway: &Gateway) -> Self {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        Self(stream)
    }

    async fn with_settings(gateway: &Gateway) -> Self {
        let mut connection = Self::new(gateway).await;
        connection.send(&frame(SETTINGS, 0, 0, &[])).await;
        connection
    }

    async fn send(&mut self, bytes: &[u8]) {
        // The gateway may have closed already.
        let _ = self.0.write_all(bytes).await;
    }

    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        let read = async {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.0.read_exact(&mut payload).await.ok()?;
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            Some(Frame { kind: head[3], flags: head[4], stream, payload })
        };
        timeout(FOREVER, read).await.expect("a frame or the end")
    }

    /// What becomes of a stream: the code of its reset, or the first byte of its answer's head, which is the
    /// indexed status (RFC 7541, appendix A), or the code of the connection's end.
    async fn outcome(&mut self, stream: u32) -> Outcome {
        loop {
            match self.next().await {
                Some(frame) if frame.kind == GOAWAY => return Outcome::GoAway(frame.code()),
                Some(frame) if frame.stream != stream => {}
                Some(frame) if frame.kind == RST_STREAM => return Outcome::Reset(frame.code()),
                Some(frame) if frame.kind == HEADERS => return Outcome::of(&frame.payload),
                Some(_) => {}
                None => return Outcome::End,
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Status(u16),
    Reset(u32),
    GoAway(u32),
    End,
}

impl Outcome {
    fn of(block: &[u8]) -> Self {
        let status = match block[0] {
            0x88 => 200,
            0x89 => 204,
            0x8c => 400,
            // A literal value of the name `:status`: three digits, Huffman coded.
            _ => match &block[..block.len().min(4)] {
                [0x48, 0x83, 0x69, 0x90] => 431,
                other => panic!("unknown status {other:02x?}"),
            },
        };
        Self::Status(status)
    }
}

async fn gateway(backend: &Backend, limits: &str) -> Gateway {
    Gateway::configured(&format!(
        "[limits]\n{limits}\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend.url()
    ))
    .await
}

/// A malformed request ends its stream, and its neighbour goes on (RFC 9113, section 8.1.1).
#[tokio::test]
async fn a_malformed_request_ends_its_stream() {
    let backend = echo("a").await;
    let gateway = gateway(&backend, "").await;
    let reset = Outcome::Reset(PROTOCOL_ERROR);
    let cases: [(&[(&str, &str)], _, _); 14] = [
        (&[("connection", "x")], &reset, "8.2.2"),
        (&[("transfer-encoding", "chunked")], &reset, "8.2.2"),
        (&[("keep-alive", "1")], &reset, "8.2.2"),
        (&[("te", "gzip")], &reset, "8.2.2"),
        (&[("-:method", "")], &reset, "8.3.1"),
        (&[("-:scheme", "")], &reset, "8.3.1"),
        (&[(":path", "")], &reset, "8.3.1"),
        (&[(":status", "200")], &reset, "8.3"),
        (&[(":authority", "a b")], &reset, "8.3.1"),
        (&[("host", "b")], &Outcome::Status(400), "8.3.1"),
        (&[(":authority", "u@a")], &Outcome::Status(400), "8.3.1"),
        (&[(":path", "admin")], &reset, "8.3.1"),
        (&[(":path", "*")], &Outcome::Status(400), "8.3.1"),
        (&[("host", "A")], &Outcome::Status(200), "8.3.1"),
    ];
    let mut wrong = Vec::new();
    for (changes, expected, section) in cases {
        let mut connection = Connection::with_settings(&gateway).await;
        connection.send(&request(1, END_STREAM, changes)).await;
        let outcome = connection.outcome(1).await;
        connection.send(&request(3, END_STREAM, &[])).await;
        let neighbour = connection.outcome(3).await;
        if outcome != *expected || neighbour != Outcome::Status(200) {
            wrong
                .push(format!("{changes:?} (RFC 9113 {section}): {outcome:?}, then {neighbour:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The length of the body is that which was announced (RFC 9113, section 8.1.1).
#[tokio::test]
async fn a_body_of_another_length_ends_its_stream() {
    let backend = silent().await;
    let gateway = gateway(&backend, "").await;
    for length in ["10", "4"] {
        let mut connection = Connection::with_settings(&gateway).await;
        let fields = [(":method", "POST"), ("content-length", length)];
        connection.send(&request(1, 0, &fields)).await;
        connection.send(&frame(DATA, END_STREAM, 1, b"hello")).await;
        assert_eq!(connection.outcome(1).await, Outcome::Reset(PROTOCOL_ERROR), "{length}");
    }
}

/// They may not stand there, and h2 ignores them (RFC 9113, section 8.1); nothing of them is passed on.
#[tokio::test]
async fn pseudo_header_fields_in_trailers_are_not_passed_on() {
    let backend = echo("a").await;
    let gateway = gateway(&backend, "").await;
    let mut connection = Connection::with_settings(&gateway).await;
    connection.send(&request(1, 0, &[(":method", "POST")])).await;
    connection.send(&frame(DATA, 0, 1, b"hello")).await;
    let trailers = fields(&[(":path", "/")]);
    connection.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers)).await;
    let outcome = connection.outcome(1).await;
    assert!(
        matches!(outcome, Outcome::Status(200) | Outcome::Reset(PROTOCOL_ERROR)),
        "{outcome:?}"
    );
}

/// It ends its stream (RFC 9113, section 8.2.1); with h2 0.4 it ends the connection.
#[tokio::test]
async fn a_field_that_is_not_valid_is_an_error() {
    let backend = echo("a").await;
    let gateway = gateway(&backend, "").await;
    for changes in [[(":method", "GE T")], [("X-Upper", "1")], [("x", "a\0b")]] {
        let mut connection = Connection::with_settings(&gateway).await;
        connection.send(&request(1, END_STREAM, &changes)).await;
        let outcome = connection.outcome(1).await;
        let is_error = [Outcome::Reset(PROTOCOL_ERROR), Outcome::GoAway(PROTOCOL_ERROR)];
        assert!(is_error.contains(&outcome), "{changes:?}: {outcome:?}");
    }
}

/// RFC 9113, section 3.4.
#[tokio::test]
async fn the_first_frame_is_settings() {
    let backend = echo("a").await;
    let gateway = gateway(&backend, "").await;
    let mut connection = Connection::new(&gateway).await;
    connection.send(&request(1, END_STREAM, &[])).await;
    assert_eq!(connection.outcome(1).await, Outcome::End);
}

#[tokio::test]
async fn limits_of_heads_and_streams() {
    let backend = silent().await;
    let gateway = gateway(&backend, "header_bytes = \"2KiB\"\nheaders = 20\nh2_streams = 3").await;
    let mut connection = Connection::with_settings(&gateway).await;
    let many: Vec<_> = (0..25).map(|_| ("x", "1")).collect();
    connection.send(&request(1, END_STREAM, &many)).await;
    assert_eq!(connection.outcome(1).await, Outcome::Status(431));
    let value = "x".repeat(120);
    let large: Vec<_> = (0..19).map(|_| ("x", value.as_str())).collect();
    let mut connection = Connection::with_settings(&gateway).await;
    connection.send(&request(1, END_STREAM, &large)).await;
    assert_eq!(connection.outcome(1).await, Outcome::Status(431));
    for stream in [5, 7, 9, 11] {
        connection.send(&request(stream, END_STREAM, &[])).await;
    }
    assert_eq!(connection.outcome(11).await, Outcome::Reset(REFUSED_STREAM));
}

/// Frames that cost the receiver work and the sender nothing (RFC 9113, section 10.5).
#[tokio::test]
async fn a_flood_ends_the_connection() {
    let backend = silent().await;
    let gateway = gateway(&backend, "").await;
    type Frames = fn(u32) -> Vec<u8>;
    let kinds: [(&str, Frames); 2] = [
        ("empty DATA", |_| frame(DATA, 0, 1, &[])),
        ("RST_STREAM", |n| {
            let mut bytes = request(3 + 2 * n, END_STREAM, &[]);
            bytes.extend(frame(RST_STREAM, 0, 3 + 2 * n, &[0, 0, 0, 8]));
            bytes
        }),
    ];
    for (name, bytes) in kinds {
        let mut connection = Connection::with_settings(&gateway).await;
        connection.send(&request(1, 0, &[(":method", "POST")])).await;
        let (mut reads, mut writes) = connection.0.into_split();
        let flood = tokio::spawn(async move {
            for number in 0..100_000 {
                if writes.write_all(&bytes(number)).await.is_err() {
                    break;
                }
            }
            writes
        });
        let mut all = Vec::new();
        let _ = timeout(Duration::from_secs(3), reads.read_to_end(&mut all)).await;
        let calm = frame(GOAWAY, 0, 0, &[])[3..5].to_vec();
        let code = ENHANCE_YOUR_CALM.to_be_bytes();
        let goes_away = all.windows(17).any(|it| it[3..5] == calm && it[13..17] == code);
        assert!(goes_away, "{name}");
        flood.abort();
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_cut() {
    let backend = silent().await;
    let gateway = gateway(&backend, "h2_ping = \"100ms\"\nh2_ping_timeout = \"100ms\"").await;
    let mut connection = Connection::with_settings(&gateway).await;
    connection.send(&request(1, END_STREAM, &[])).await;
    let mut pinged = false;
    while let Some(frame) = connection.next().await {
        pinged |= frame.kind == PING && frame.flags == 0;
    }
    assert!(pinged);
}

/// A stop says GOAWAY twice (RFC 9113, section 6.8): first without a limit, so that no stream on its way is lost, and
/// after a round trip with the last stream that was accepted.
#[tokio::test]
async fn a_stop_says_goaway_twice() {
    let slow = held("a").await;
    let gateway = gateway(&slow.backend, "").await;
    let mut connection = Connection::with_settings(&gateway).await;
    connection.send(&request(1, END_STREAM, &[])).await;
    slow.arrival().await;
    gateway.signal("TERM").await;
    let mut last_streams = Vec::new();
    while let Some(frame) = connection.next().await {
        match frame.kind {
            GOAWAY => {
                assert_eq!(frame.code(), 0, "there is no error");
                last_streams.push(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                if last_streams.len() == 1 {
                    // A stream that was on its way.
                    connection.send(&request(3, END_STREAM, &[])).await;
                    slow.arrival().await;
                    slow.release();
                    slow.release();
                }
            }
            PING if frame.flags & ACK == 0 => {
                connection.send(&self::frame(PING, ACK, 0, &frame.payload)).await;
            }
            SETTINGS if frame.flags & ACK == 0 => {
                connection.send(&self::frame(SETTINGS, ACK, 0, &[])).await;
            }
            HEADERS => assert_eq!(Outcome::of(&frame.payload), Outcome::Status(200)),
            _ => {}
        }
    }
    assert_eq!(last_streams, [0x7fff_ffff, 3], "the stream that was on its way is served");
}
