//! Which protocol the client of a connection speaks.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::stream::Stream;

/// How a connection begins that is HTTP/2 without negotiation (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of the first frame, which must be SETTINGS (RFC 9113, section 3.4).
const FRAME_HEAD: usize = 9;

/// As many bytes as tell that a connection is HTTP/2.
const SNIFFED: usize = PREFACE.len() + FRAME_HEAD;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Detects the protocol. What was read is given to hyper later.
pub(super) async fn sniff(stream: &mut Stream) -> io::Result<(Protocol, Bytes)> {
    let (mut bytes, mut len) = ([0; SNIFFED], 0);
    loop {
        let read = stream.read(&mut bytes[len..]).await?;
        len += read;
        let sniffed = &bytes[..len];
        let (preface, frame) = sniffed.split_at(PREFACE.len().min(len));
        if !PREFACE.starts_with(preface) || (read == 0 && frame.len() < FRAME_HEAD) {
            return Ok((Protocol::Http1, Bytes::copy_from_slice(sniffed)));
        }
        if frame.len() == FRAME_HEAD {
            // SETTINGS, and not an acknowledgement.
            let is_settings = frame[3] == 4 && frame[4] & 1 == 0;
            return match is_settings {
                true => Ok((Protocol::Http2, Bytes::copy_from_slice(sniffed))),
                false => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}
