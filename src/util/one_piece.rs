//! Small writes in one piece: the system takes one buffer at less cost than a list of them.

use std::{io::IoSlice, pin::Pin, task::Context};

use tokio::io::AsyncWrite;

use super::polled::PollIo;

/// Up to so many bytes are copied, which costs less than the list.
const SMALL: usize = 1 << 10;

/// Writes the bytes of `bufs`: at once if they are one buffer or few, else as a list.
#[inline]
pub(crate) fn poll_write_pieces<W: AsyncWrite + Unpin>(
    stream: &mut W,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> PollIo<usize> {
    match in_one_piece(bufs, |bytes| Pin::new(&mut *stream).poll_write(cx, bytes)) {
        Ok(result) => result,
        Err(_) => Pin::new(stream).poll_write_vectored(cx, bufs),
    }
}

/// The result of `write` for all bytes of `bufs` at once, if they are one buffer or few. It is given back otherwise.
fn in_one_piece<W, R>(bufs: &[IoSlice<'_>], write: W) -> Result<R, W>
where
    W: FnOnce(&[u8]) -> R,
{
    if let [only] = bufs {
        return Ok(write(only));
    }
    let mut piece = [0; SMALL];
    let mut length = 0;
    for buf in bufs {
        let Some(place) = piece.get_mut(length..length + buf.len()) else { return Err(write) };
        place.copy_from_slice(buf);
        length += buf.len();
    }
    Ok(write(&piece[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bufs: &[&[u8]]) -> Option<Vec<u8>> {
        let bufs: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        in_one_piece(&bufs, <[u8]>::to_vec).ok()
    }

    #[test]
    fn few_bytes_and_single_buffers_are_one_piece() {
        assert_eq!(written(&[b"ab", b"", b"c"]).as_deref(), Some(&b"abc"[..]));
        assert_eq!(written(&[]).as_deref(), Some(&b""[..]));
        let large = [b'x'; 2 * SMALL];
        assert_eq!(written(&[&large]).as_deref(), Some(&large[..]));
        let (full, over) = (&large[..SMALL - 1], &large[..SMALL]);
        assert_eq!(written(&[b"a", full]).map(|all| all.len()), Some(SMALL));
        assert_eq!(written(&[b"a", over]), None, "it is not worth the copy");
    }
}
