//! Options of the TCP sockets of clients and to backends.

use std::{io, time::Duration};

use socket2::Socket;
#[cfg(target_os = "linux")]
use socket2::TcpKeepalive;

/// When an idle connection is probed, how often, and how many probes may be lost.
#[cfg(target_os = "linux")]
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);

/// What is set on each socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SocketOptions {
    /// After how long without an acknowledgement of sent data a peer is dead.
    pub(crate) user_timeout: Duration,
    /// While so many bytes are not sent, the system takes no others.
    pub(crate) unsent: u32,
}

impl SocketOptions {
    /// Makes the system send small writes at once, hold few unsent bytes, and end connections to dead peers:
    /// those that acknowledge nothing, and idle ones that answer no probe.
    pub(crate) fn apply(self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        #[cfg(target_os = "linux")]
        {
            let (idle, interval, count) = KEEPALIVE;
            let keepalive = TcpKeepalive::new();
            let keepalive = keepalive.with_time(idle).with_interval(interval).with_retries(count);
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(self.user_timeout))?;
            // The last one, so that it tells of the others: see `are_set`.
            socket.set_tcp_notsent_lowat(self.unsent)?;
        }
        Ok(())
    }

    /// The same for an accepted connection: on Linux it inherits what was set on its listening socket before the client
    /// connected.
    #[cfg(any(feature = "serve", test))]
    pub(crate) fn apply_to_accepted(self, socket: &Socket) -> io::Result<()> {
        if self.are_set(socket) { Ok(()) } else { self.apply(socket) }
    }

    #[cfg(all(target_os = "linux", any(feature = "serve", test)))]
    fn are_set(self, socket: &Socket) -> bool {
        // Another server may have set its own timeout on the same listening socket.
        socket.tcp_notsent_lowat().is_ok_and(|unsent| unsent == self.unsent)
            && socket.tcp_user_timeout().is_ok_and(|timeout| timeout == Some(self.user_timeout))
    }

    #[cfg(all(not(target_os = "linux"), any(feature = "serve", test)))]
    fn are_set(self, _: &Socket) -> bool {
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use socket2::SockRef;

    use super::*;

    const OPTIONS: SocketOptions =
        SocketOptions { user_timeout: Duration::from_secs(75), unsent: 16 << 10 };

    fn check(socket: &Socket) -> io::Result<()> {
        assert!(socket.tcp_nodelay()?);
        assert!(socket.keepalive()?);
        assert_eq!(socket.tcp_keepalive_time()?, KEEPALIVE.0);
        assert_eq!(socket.tcp_keepalive_interval()?, KEEPALIVE.1);
        assert_eq!(socket.tcp_keepalive_retries()?, KEEPALIVE.2);
        assert_eq!(socket.tcp_user_timeout()?, Some(OPTIONS.user_timeout));
        assert_eq!(socket.tcp_notsent_lowat()?, OPTIONS.unsent);
        Ok(())
    }

    #[test]
    fn the_options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client = connect();
        OPTIONS.apply(&SockRef::from(&client)).unwrap();
        check(&SockRef::from(&client)).unwrap();

        OPTIONS.apply(&SockRef::from(&listener)).unwrap();
        let (early, _) = listener.accept().unwrap();
        assert!(!OPTIONS.are_set(&SockRef::from(&early)), "it had connected before");
        OPTIONS.apply_to_accepted(&SockRef::from(&early)).unwrap();
        check(&SockRef::from(&early)).unwrap();

        let _clients = [connect(), connect()];
        let (late, _) = listener.accept().unwrap();
        check(&SockRef::from(&late)).unwrap();
        let others = SocketOptions { user_timeout: Duration::from_secs(5), ..OPTIONS };
        others.apply(&SockRef::from(&listener)).unwrap();
        let _client = connect();
        for _ in 0..2 {
            let (accepted, _) = listener.accept().unwrap();
            OPTIONS.apply_to_accepted(&SockRef::from(&accepted)).unwrap();
            check(&SockRef::from(&accepted)).unwrap();
        }
    }
}
