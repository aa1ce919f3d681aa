//! An upgraded connection: copies bytes both ways until one end closes.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::pool::UpgradeEnd;

/// How long the other direction may be silent after one has ended. A closed socket and a half-closed one look
/// the same, so an end that still sends is read, and a silent one is closed after this time.
const AFTER_HALF_CLOSE: Duration = Duration::from_secs(10);

const BUFFER_BYTES: usize = 16 * 1024;

/// Copies between both ends in a new task; `end` is dropped when the tunnel has ended.
pub(super) fn join(client: OnUpgrade, backend: OnUpgrade, end: UpgradeEnd) {
    drop(tokio::spawn(async move {
        // A client that leaves before it has read the 101 never upgrades; its end is an error.
        match (backend.await, client.await) {
            (Ok(backend), Ok(client)) => {
                let mut over = pin!(async { end.signal().await.over().await });
                let mut tunnel = pin!(run(TokioIo::new(client), TokioIo::new(backend)));
                let ended = poll_fn(|cx| match tunnel.as_mut().poll(cx) {
                    Poll::Ready(result) => Poll::Ready(Some(result)),
                    Poll::Pending => over.as_mut().poll(cx).map(|()| None),
                });
                match ended.await {
                    Some(Ok(())) => {}
                    Some(Err(error)) => tracing::debug!(%error, "an upgraded connection broke"),
                    None => tracing::debug!("an upgraded connection was cut off: drained"),
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "an upgrade did not complete");
            }
        }
    }));
}

async fn run<C, B>(client: C, backend: B) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (client_read, client_write) = tokio::io::split(client);
    let (backend_read, backend_write) = tokio::io::split(backend);
    let moved = AtomicU64::new(0);
    let mut up = pin!(pump(client_read, backend_write, &moved));
    let mut down = pin!(pump(backend_read, client_write, &moved));
    let (mut up_open, mut down_open) = (true, true);
    let mut seen = 0;
    let mut silence = pin!(None);
    // Why writing to one end failed, while what it has sent is still passed on.
    let mut broken = None;
    poll_fn(|cx| {
        if up_open && let Poll::Ready(result) = up.as_mut().poll(cx) {
            broken = broken.take().or(over(result)?);
            up_open = false;
        }
        if down_open && let Poll::Ready(result) = down.as_mut().poll(cx) {
            broken = broken.take().or(over(result)?);
            down_open = false;
        }
        if !up_open && !down_open {
            return Poll::Ready(broken.take().map_or(Ok(()), Err));
        }
        if up_open && down_open {
            return Poll::Pending;
        }
        loop {
            if silence.is_none() {
                seen = moved.load(Ordering::Relaxed);
                silence.set(Some(tokio::time::sleep(AFTER_HALF_CLOSE)));
            }
            match silence.as_mut().as_pin_mut().map(|sleep| sleep.poll(cx)) {
                Some(Poll::Ready(())) if moved.load(Ordering::Relaxed) == seen => {
                    return Poll::Ready(Ok(()));
                }
                Some(Poll::Ready(())) => silence.set(None),
                Some(Poll::Pending) | None => return Poll::Pending,
            }
        }
    })
    .await
}

/// How a direction broke.
enum Broken {
    /// Reading failed, and all that had arrived was passed on.
    Reading(io::Error),
    /// Writing failed. What the same end has sent before may not be read yet.
    Writing(io::Error),
}

/// Whether the other direction goes on after the end of one.
fn over(result: Result<(), Broken>) -> io::Result<Option<io::Error>> {
    match result {
        Ok(()) => Ok(None),
        Err(Broken::Writing(error)) => Ok(Some(error)),
        Err(Broken::Reading(error)) => Err(error),
    }
}

/// Copies one direction until its end, and passes the end on.
async fn pump<R, W>(mut from: R, mut to: W, moved: &AtomicU64) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await.map_err(Broken::Reading)?;
        if read == 0 {
            return to.shutdown().await.map_err(Broken::Writing);
        }
        to.write_all(&buffer[..read]).await.map_err(Broken::Writing)?;
        to.flush().await.map_err(Broken::Writing)?;
        moved.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::Pin, task::Context};

    use tokio::{
        io::{ReadBuf, duplex},
        time::Instant,
    };

    use super::*;
    use crate::util::PollIo;

    #[tokio::test]
    async fn both_ways_until_both_have_ended() {
        let (mut client, ours) = duplex(64);
        let (theirs, mut backend) = duplex(64);
        let tunnel = tokio::spawn(run(ours, theirs));
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut text = String::new();
        backend.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ping");
        backend.write_all(b"pong").await.unwrap();
        drop(backend);
        text.clear();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "pong", "what comes after a half-close still arrives");
        tunnel.await.unwrap().unwrap();
    }

    /// Has sent these bytes, and fails all writes.
    struct Failing(&'static [u8]);

    impl AsyncRead for Failing {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> PollIo<()> {
            buf.put_slice(std::mem::take(&mut self.0));
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> PollIo<usize> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> PollIo<()> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> PollIo<()> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn an_end_that_fails_writes_is_still_read() {
        let (mut client, ours) = duplex(64);
        client.write_all(b"ping").await.unwrap();
        let tunnel = tokio::spawn(run(ours, Failing(b"the end")));
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "the end");
        assert!(tunnel.await.unwrap().is_err(), "the failure is reported");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_end_is_closed() {
        let (client, ours) = duplex(64);
        let (theirs, _backend) = duplex(64);
        let start = Instant::now();
        let tunnel = tokio::spawn(run(ours, theirs));
        drop(client);
        tunnel.await.unwrap().unwrap();
        assert_eq!(start.elapsed(), AFTER_HALF_CLOSE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_still_sends_is_read_for_as_long_as_it_does() {
        let (mut client, ours) = duplex(64);
        let (theirs, mut backend) = duplex(64);
        let tunnel = tokio::spawn(run(ours, theirs));
        client.shutdown().await.unwrap();
        for _ in 0..5 {
            tokio::time::sleep(AFTER_HALF_CLOSE * 3 / 4).await;
            backend.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x');
        }
        let last = Instant::now();
        tunnel.await.unwrap().unwrap();
        assert!(last.elapsed() <= AFTER_HALF_CLOSE * 2, "it is closed once it is silent");
    }
}
