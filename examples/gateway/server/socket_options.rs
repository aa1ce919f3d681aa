//! Options of the clients' sockets.

use std::{io, net::TcpStream, time::Duration};

use super::limits::ServerLimits;

/// When an idle connection is probed, how often, and how many probes may be lost.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;

/// Finds dead peers: those that acknowledge nothing for `tcp_user_timeout`, and idle ones that answer no
/// probe. Limits the bytes that the system has not sent.
pub(super) fn apply(stream: &TcpStream, limits: &ServerLimits) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    #[cfg(target_os = "linux")]
    {
        sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
        sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
        let millis = u32::try_from(limits.tcp_user_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, millis)?;
        let unsent = u32::try_from(limits.buffer_bytes / 2).unwrap_or(u32::MAX);
        socket2::SockRef::from(stream).set_tcp_notsent_lowat(unsent)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustix::net::sockopt;

    use super::*;

    #[test]
    fn the_options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        apply(&stream, &ServerLimits::default()).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        #[cfg(target_os = "linux")]
        {
            assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
            assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 75_000);
            assert_eq!(socket2::SockRef::from(&stream).tcp_notsent_lowat().unwrap(), 32 << 10);
        }
    }
}
