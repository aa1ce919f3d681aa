//! Which protocol the client of a connection speaks.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};

use super::stream::Stream;
use crate::util::PollIo;

/// How a connection begins that is HTTP/2 without negotiation (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of the first frame, which must be SETTINGS (RFC 9113, section 3.4).
const FRAME_HEAD: usize = 9;

/// As many bytes are read at a time. Most first requests fit, so that they are read at once.
const MOST: usize = 2048;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Detects the protocol. What was read is given to hyper later.
pub(super) async fn sniff(stream: &mut Stream) -> io::Result<(Protocol, Bytes)> {
    let mut sniffed = Vec::new();
    loop {
        let read = poll_fn(|cx| poll_read(stream, &mut sniffed, cx)).await?;
        let (preface, frame) = sniffed.split_at(PREFACE.len().min(sniffed.len()));
        if !PREFACE.starts_with(preface) || (read == 0 && frame.len() < FRAME_HEAD) {
            return Ok((Protocol::Http1, sniffed.into()));
        }
        if frame.len() >= FRAME_HEAD {
            // SETTINGS, and not an acknowledgement.
            let is_settings = frame[3] == 4 && frame[4] & 1 == 0;
            return match is_settings {
                true => Ok((Protocol::Http2, sniffed.into())),
                false => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}

/// Reads what is there, and returns how much it was. While the client sends nothing, it takes no memory.
fn poll_read(stream: &mut Stream, read: &mut Vec<u8>, cx: &mut Context<'_>) -> PollIo<usize> {
    let mut bytes = [0; MOST];
    let mut buf = ReadBuf::new(&mut bytes);
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    read.extend_from_slice(buf.filled());
    Poll::Ready(Ok(buf.filled().len()))
}
