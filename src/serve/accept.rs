//! Accepts connections, also when this machine runs out of file descriptors.

use std::{
    future::poll_fn, io, iter::Cycle, slice::Iter, sync::atomic::Ordering::Relaxed, task::Poll,
};

use tokio::sync::mpsc;

use super::{
    acceptor::{Acceptor, Incoming},
    shared::{Accepted, Shared},
    shortage::ShortageState,
};

/// Accepts while there are permits, and distributes the connections round robin.
///
/// One task accepts from all listeners, so that no listener holds a permit that another one needs.
pub(super) async fn accept(
    acceptors: Vec<Acceptor>,
    senders: Vec<mpsc::UnboundedSender<Accepted>>,
    shared: &Shared,
) {
    // The only worker accepts itself.
    let stays = senders.len() == 1;
    let mut workers = senders.iter().cycle();
    let mut shortage = ShortageState::new();
    let mut first = 0;
    loop {
        // Without one no connection is accepted: the client waits in the kernel's queue, and connections that linger
        // are closed.
        let Some(permit) = shared.connection_limit.acquire(&shared.open).await else { return };
        shared.awaits_connection.store(true, Relaxed);
        let (position, accepted) = next(&acceptors, first).await;
        shared.awaits_connection.store(false, Relaxed);
        first = (position + 1) % acceptors.len();
        let Some(Acceptor { endpoint, .. }) = acceptors.get(position) else { continue };
        match accepted {
            Ok(incoming) if !shortage.can_serve() => {
                shortage.turn_away((!endpoint.is_encrypted()).then_some(incoming));
            }
            Ok(incoming) => {
                let stream = if stays { Ok(incoming.stay()) } else { incoming.leave() };
                if let Ok(stream) = stream {
                    let endpoint = endpoint.clone();
                    distribute(&mut workers, Accepted { stream, endpoint, permit });
                }
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => shortage.wait(&error, permit).await,
        }
    }
}

/// The next connection, and the position of its listener. Looks at `first` first, so that a busy listener does
/// not keep the others waiting.
async fn next(acceptors: &[Acceptor], first: usize) -> (usize, io::Result<Incoming>) {
    poll_fn(|cx| {
        let (before, from) = acceptors.split_at(first.min(acceptors.len()));
        let from = (first..).zip(from);
        for (position, acceptor) in from.chain((0..).zip(before)) {
            if let Poll::Ready(accepted) = acceptor.poll_accept(cx) {
                return Poll::Ready((position, accepted));
            }
        }
        Poll::Pending
    })
    .await
}

fn distribute(workers: &mut Cycle<Iter<'_, mpsc::UnboundedSender<Accepted>>>, accepted: Accepted) {
    if workers.next().is_none_or(|sender| sender.send(accepted).is_err()) {
        tracing::error!("a worker has ended; its connections are lost");
    }
}

/// Whether it is an error of the connection, and not of accepting.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}
