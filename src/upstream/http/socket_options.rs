//! Options of the sockets to backends.

use std::{io, time::Duration};

use tokio::net::TcpStream;

/// When an idle connection is probed, how often, and how many probes may be lost.
#[cfg(target_os = "linux")]
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(10), 3);

/// Makes the system send small writes at once, and end connections to dead peers: those that acknowledge
/// nothing for `user_timeout`, and idle ones that answer no probe.
pub(super) fn apply(stream: &TcpStream, user_timeout: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::net::sockopt;
        let (idle, interval, count) = KEEPALIVE;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, idle)?;
        sockopt::set_tcp_keepintvl(stream, interval)?;
        sockopt::set_tcp_keepcnt(stream, count)?;
        let millis = u32::try_from(user_timeout.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(stream, millis)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
    Ok(())
}
