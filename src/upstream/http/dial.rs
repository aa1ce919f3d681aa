//! Connects to the addresses of a backend, or to its Unix socket.

#[cfg(unix)]
use std::path::Path;
use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::AcqRel},
    task::Poll,
    time::Duration,
};

use socket2::SockRef;
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};

#[cfg(unix)]
use super::target::Endpoint;
use super::{address::Address, stream::Stream};
use crate::{
    error::{BoxError, Shortage, ShortageError, TimedOut},
    util::clock::{after, later},
};

/// How long an address may refuse connections before a request tries the next one. A redial does so at
/// once.
const GIVE_UP_AFTER: Duration = Duration::from_secs(1);

/// How long after the first family of addresses the other one is tried, too (RFC 8305, section 5).
const FAMILY_DELAY: Duration = Duration::from_millis(250);

/// How long to wait before a Unix socket with a full backlog is tried again, at first and at the most.
#[cfg(unix)]
const BACKLOG_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

impl Address {
    /// Opens a connection within `limit`, and returns the generation that it belongs to. With `redials`, no
    /// request depends on the address in use, so the next one is tried when that one refuses.
    pub(super) async fn connect(
        self: &Arc<Self>,
        limit: Duration,
        redials: bool,
    ) -> Result<(Stream, u64), BoxError> {
        #[cfg(unix)]
        if let Endpoint::Unix(path) = &self.endpoint {
            let stream = connect_to_socket(path, later(limit)).await?;
            return Ok((Stream::Unix(stream), self.generation()));
        }
        let (stream, generation) = self.connect_to_any(limit, redials).await?;
        self.options.apply(&SockRef::from(&stream))?;
        Ok((Stream::Tcp(stream), generation))
    }

    async fn connect_to_any(
        self: &Arc<Self>,
        limit: Duration,
        redials: bool,
    ) -> Result<(TcpStream, u64), BoxError> {
        let deadline = later(limit);
        if self.usable().is_none() {
            self.look_up(deadline).await?;
        }
        let generation = self.generation();
        let (current, listed, failing) = {
            let known = self.known();
            (known.current, known.listed.clone(), known.failing)
        };
        let Some(current) = current else {
            return self.connect_to_first(&listed, None, deadline).await;
        };
        // The others need a share of the time when they may have to be tried.
        let half = later(deadline.saturating_duration_since(Instant::now()) / 2);
        let may_change =
            redials || failing.is_some_and(|since| after(since, GIVE_UP_AFTER) <= half);
        let due = if may_change && listed.len() > 1 { half } else { deadline };
        let error = match timeout_at(due, TcpStream::connect(current)).await {
            Ok(Ok(stream)) => {
                self.known().failing = None;
                return Ok((stream, generation));
            }
            Ok(Err(error)) => error_of(error, true),
            Err(_) => TimedOut::CONNECT.into(),
        };
        if Shortage::in_chain(error.as_ref()).is_none() && self.should_change(current, redials) {
            let others: Vec<_> = listed.into_iter().filter(|addr| *addr != current).collect();
            let connecting = self.connect_to_first(&others, Some(current), deadline);
            if let Ok(connected) = connecting.await {
                return Ok(connected);
            }
        }
        Err(error)
    }

    /// Connects to the first address that accepts. It is used from then on, in place of `current`.
    async fn connect_to_first(
        &self,
        addrs: &[SocketAddr],
        current: Option<SocketAddr>,
        deadline: Instant,
    ) -> Result<(TcpStream, u64), BoxError> {
        // When an address is in use, its family works.
        let (stream, addr) = match current {
            Some(_) => connect_in_turn(addrs, deadline).await?,
            None => connect_to_families(addrs, deadline).await?,
        };
        match self.set_current(addr, current) {
            Ok(generation) => Ok((stream, generation)),
            Err(other) => {
                let generation = self.generation();
                let stream = timeout_at(deadline, TcpStream::connect(other)).await;
                Ok((stream.map_err(|_| TimedOut::CONNECT)??, generation))
            }
        }
    }

    /// Whether the next address is tried after `current` has refused a connection.
    fn should_change(&self, current: SocketAddr, redials: bool) -> bool {
        let mut known = self.known();
        if known.current != Some(current) || known.listed.len() < 2 {
            return false;
        }
        let failing = *known.failing.get_or_insert_with(Instant::now);
        redials || failing.elapsed() >= GIVE_UP_AFTER
    }

    /// Uses `addr`, which has accepted a connection, in place of `current`. Returns its generation, or the
    /// address that another request has chosen meanwhile.
    fn set_current(
        &self,
        addr: SocketAddr,
        current: Option<SocketAddr>,
    ) -> Result<u64, SocketAddr> {
        let mut known = self.known();
        match known.current {
            Some(chosen) if chosen == addr => return Ok(self.generation()),
            Some(chosen) if Some(chosen) != current => return Err(chosen),
            _ => {}
        }
        let before = known.current.or(known.last);
        (known.current, known.last, known.failing) = (Some(addr), None, None);
        let Some(before) = before.filter(|before| *before != addr) else {
            return Ok(self.generation());
        };
        let generation = self.generation.fetch_add(1, AcqRel) + 1;
        drop(known);
        tracing::info!(name = %self.endpoint, from = %before, to = %addr, "address changed");
        if let Some(on_change) = &self.lookups.on_change {
            on_change(before, addr);
        }
        Ok(generation)
    }
}

/// Connects to the first of `addrs` that accepts, one after the other.
async fn connect_in_turn(
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), BoxError> {
    let mut last: BoxError = io::Error::from(io::ErrorKind::HostUnreachable).into();
    for (tried, addr) in addrs.iter().enumerate() {
        // Each of them gets an equal share of the time that is left.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = later(left / (addrs.len() - tried) as u32);
        last = match timeout_at(share, TcpStream::connect(addr)).await {
            Ok(Ok(stream)) => return Ok((stream, *addr)),
            Ok(Err(error)) => error_of(error, false),
            Err(_) => TimedOut::CONNECT.into(),
        };
        if Shortage::in_chain(last.as_ref()).is_some() {
            break;
        }
    }
    Err(last)
}

/// Connects to the first of `addrs` that accepts. The family that is not the first one's is tried when the first
/// has failed, or has not accepted soon (RFC 8305). The error is that of the first.
async fn connect_to_families(
    addrs: &[SocketAddr],
    deadline: Instant,
) -> Result<(TcpStream, SocketAddr), BoxError> {
    let is_v4 = addrs.first().is_some_and(SocketAddr::is_ipv4);
    let (preferred, others): (Vec<_>, Vec<_>) =
        addrs.iter().copied().partition(|addr| addr.is_ipv4() == is_v4);
    if others.is_empty() {
        return connect_in_turn(addrs, deadline).await;
    }
    let mut first = pin!(connect_in_turn(&preferred, deadline));
    let mut other = pin!(connect_in_turn(&others, deadline));
    let mut delay = pin!(sleep(FAMILY_DELAY));
    let (mut failed, mut other_failed) = (None, false);
    poll_fn(|cx| {
        if failed.is_none()
            && let Poll::Ready(connected) = first.as_mut().poll(cx)
        {
            match connected {
                Ok(connected) => return Poll::Ready(Ok(connected)),
                Err(error) if Shortage::in_chain(error.as_ref()).is_some() => {
                    return Poll::Ready(Err(error));
                }
                Err(error) => failed = Some(error),
            }
        }
        if !other_failed
            && (failed.is_some() || delay.as_mut().poll(cx).is_ready())
            && let Poll::Ready(connected) = other.as_mut().poll(cx)
        {
            match connected {
                Ok(connected) => return Poll::Ready(Ok(connected)),
                Err(_) => other_failed = true,
            }
        }
        match failed.take_if(|_| other_failed) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Connects to the socket at `path`. A full backlog says that its listener is slow, not that it is gone.
#[cfg(unix)]
async fn connect_to_socket(path: &Path, deadline: Instant) -> Result<UnixStream, BoxError> {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, WouldBlock};
    let (mut pause, longest) = BACKLOG_PAUSE;
    loop {
        match timeout_at(deadline, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if error.kind() == WouldBlock => {
                if after(Instant::now(), pause) >= deadline {
                    let shortage = Shortage::Backlog;
                    return Err(ShortageError { shortage, source: error }.into());
                }
                sleep(pause).await;
                pause = (2 * pause).min(longest);
            }
            Ok(Err(error)) => {
                let kind = error.kind();
                if matches!(kind, ConnectionRefused | NotFound | PermissionDenied) {
                    let text = format!("{}: {error}", path.display());
                    return Err(io::Error::new(kind, text).into());
                }
                return Err(error.into());
            }
            Err(_) => return Err(TimedOut::CONNECT.into()),
        }
    }
}

/// The error of a connection attempt. `accepted`: the address has accepted a connection before.
fn error_of(error: io::Error, accepted: bool) -> BoxError {
    if accepted && error.kind() == io::ErrorKind::AddrNotAvailable {
        return ShortageError { shortage: Shortage::Ports, source: error }.into();
    }
    error.into()
}

#[cfg(test)]
mod tests {
    use tokio::{
        net::{TcpListener, TcpSocket},
        time::{advance, pause, timeout},
    };

    use super::{
        super::{
            address::Lookups,
            resolve::{Resolver, System},
            target::Endpoint,
        },
        *,
    };
    use crate::util::SocketOptions;

    /// A backend of these addresses, the first of which is in use.
    fn address_of(listed: &[SocketAddr]) -> Arc<Address> {
        let every = Duration::from_secs(60);
        let lookups = Lookups { resolver: Resolver::new(System), every, on_change: None };
        let options = SocketOptions { user_timeout: every, unsent: 16 << 10 };
        let address = Arc::new(Address::new(Endpoint::Addr(listed[0]), lookups, options));
        let mut known = address.known();
        (known.listed, known.current) = (listed.to_vec(), Some(listed[0]));
        drop(known);
        address
    }

    fn three() -> [SocketAddr; 3] {
        [1, 2, 3].map(|n| SocketAddr::from(([127, 0, 0, n], 80)))
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_due_when_a_redial_was_refused_or_all_were_for_a_second() {
        let [a, b, c] = three();
        let address = address_of(&[a, b, c]);
        assert!(!address.should_change(b, true), "another one is in use");
        assert!(!address.should_change(a, false), "it may be a restart");
        advance(GIVE_UP_AFTER - Duration::from_millis(1)).await;
        assert!(!address.should_change(a, false), "it may still be one");
        assert!(address.should_change(a, true), "no request depends on it");
        advance(Duration::from_millis(1)).await;
        assert!(address.should_change(a, false));
        assert!(address_of(&[a, b]).should_change(a, true));
        assert!(!address_of(&[a]).should_change(a, true), "there is no other");
    }

    #[test]
    fn the_request_that_is_first_chooses_the_address() {
        let [a, b, c] = three();
        let address = address_of(&[a, b, c]);
        assert_eq!(address.set_current(b, Some(a)), Ok(1));
        assert_eq!(address.set_current(c, Some(a)), Err(b), "another request was first");
        assert_eq!(address.set_current(b, Some(a)), Ok(1), "and chose the same");
        assert_eq!(address.generation(), 1);
    }

    /// A listener whose queue is full: connecting to it takes for ever.
    async fn black_hole() -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = timeout(Duration::from_millis(100), TcpStream::connect(addr)).await {
            queued.push(stream.unwrap());
        }
        (listener, queued)
    }

    #[tokio::test]
    async fn the_address_in_use_leaves_half_of_the_time_if_the_next_may_be_tried() {
        let (listener, _queued) = black_hole().await;
        // The same one twice: when it is given up, there is no other that takes time.
        let listed = [listener.local_addr().unwrap(); 2];
        pause();
        // How many are listed, whether it is a redial, since when the first has failed, and the seconds: the limit,
        // and those that the first one gets.
        for (count, redials, failing, limit, expected) in [
            (2, true, None, 10, 5),
            (1, true, None, 10, 10),
            (2, false, None, 10, 10),
            (2, false, Some(2), 10, 5),
            (1, false, Some(2), 10, 10),
            (2, false, Some(0), 10, 5),
            (2, false, Some(0), 1, 1),
        ] {
            let address = address_of(&listed[..count]);
            let since = Instant::now();
            advance(Duration::from_secs(failing.unwrap_or(0))).await;
            address.known().failing = failing.map(|_| since);
            let begun = Instant::now();
            let limit = Duration::from_secs(limit);
            address.connect_to_any(limit, redials).await.unwrap_err();
            let first = begun.elapsed().as_secs();
            assert_eq!(first, expected, "{count} {redials} {failing:?} {limit:?}");
        }
    }

    #[tokio::test]
    async fn attempts_at_all_addresses_take_the_time_that_there_is() {
        let (first, second) = (black_hole().await, black_hole().await);
        let addrs = [&first, &second].map(|(listener, _)| listener.local_addr().unwrap());
        pause();
        let limit = Duration::from_secs(10);
        let begun = Instant::now();
        let connected = connect_in_turn(&addrs, after(begun, limit)).await;
        assert!(connected.is_err());
        let taken = begun.elapsed();
        assert!(taken >= limit && taken < limit * 3 / 2, "{taken:?}");
    }
}
