//! Options of the clients' sockets.

use std::{io, net::TcpStream, time::Duration};

use super::limits::ServerLimits;

/// When an idle connection is asked for a sign of life, how often, and how many times in vain.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 3;

/// Finds dead peers: those that acknowledge nothing for `tcp_user_timeout`, and those that were idle and are
/// gone. Limits the bytes that the system has not sent.
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
        let unsent = u32::try_from(limits.buffer_bytes / 4).unwrap_or(u32::MAX);
        socket2::SockRef::from(stream).set_tcp_notsent_lowat(unsent)?;
    }
    Ok(())
}
