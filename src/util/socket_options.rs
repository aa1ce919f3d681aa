//! Options of the TCP sockets of clients and to backends.

use std::{io, time::Duration};

use tokio::net::TcpStream;

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
    pub(crate) fn apply(self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        #[cfg(target_os = "linux")]
        {
            use rustix::net::sockopt;
            let (idle, interval, count) = KEEPALIVE;
            sockopt::set_socket_keepalive(stream, true)?;
            sockopt::set_tcp_keepidle(stream, idle)?;
            sockopt::set_tcp_keepintvl(stream, interval)?;
            sockopt::set_tcp_keepcnt(stream, count)?;
            let millis = u32::try_from(self.user_timeout.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(stream, millis)?;
            socket2::SockRef::from(stream).set_tcp_notsent_lowat(self.unsent)?;
        }
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use rustix::net::sockopt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let options = SocketOptions { user_timeout: Duration::from_secs(75), unsent: 16 << 10 };
        options.apply(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE.0);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 75_000);
        assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), 16 << 10);
    }
}
